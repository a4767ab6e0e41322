"""Rooms import only from rooms before them, and pure rooms from no host package."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dreamer_jax"
# A room may import from the rooms before it and from its own.
ROOMS = """types metrics errors files seeding optimizer runtime model.ops model envs envs.vector
    replay report behavior config agent run configs benchmark cli""".split()
PURE = {"types", "metrics", "optimizer", "model.ops", "model", "behavior", "config", "agent"}
HOST_PACKAGES = {"gymnasium", "ale_py", "cv2", "matplotlib", "PIL", "rich", "orbax", "wandb"}
MODULES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.name != "__init__.py"
]


def room_of(name):
    """Return the room of a dotted module name inside the package."""
    return max((r for r in ROOMS if f"{name}.".startswith(f"{r}.")), key=len)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_to_earlier_rooms(path):
    room = room_of(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    for name in imports(path):
        package, _, inner = name.partition(".")
        assert room not in PURE or package not in HOST_PACKAGES, f"{room} imports {package}"
        if package == "dreamer_jax":
            assert ROOMS.index(room_of(inner)) <= ROOMS.index(room), f"{room} imports {name}"
