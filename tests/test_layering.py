"""A room imports only from rooms before it, and a pure room from no host package."""

import ast
from pathlib import Path

import dreamer_jax

PACKAGE = Path(__file__).parents[1] / "dreamer_jax"
ROOMS = """__version__ types metrics errors schema files streams seeding optimizer runtime model.ops
    model envs envs.vector envs.jax_env replay report behavior config agent run configs benchmark
    launch commands __main__""".split()
PURE = "types metrics schema optimizer model.ops model behavior config agent".split()
HOST_PACKAGES = set(
    "gymnasium ale_py dm_control mujoco cv2 matplotlib PIL rich orbax wandb ray submitit".split()
)
# What a pure room imports beside pure rooms; the config lists the samplers that there are.
BESIDE = {"errors", "runtime"}
EXCEPT = {("config/keys.py", "replay.samplers.SAMPLERS")}


def room_of(module):
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_point_to_earlier_rooms():
    for path in sorted({*PACKAGE.rglob("*.py")} - {PACKAGE / "__init__.py"}):
        room = room_of(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
        for name in imports(path):
            package, _, module = name.partition(".")
            assert room not in PURE or package not in HOST_PACKAGES, f"{path} imports {package}"
            if package == "dreamer_jax":
                allowed = {*PURE, *BESIDE} if room in PURE else ROOMS
                is_pure = room_of(module) in allowed
                known = (str(path.relative_to(PACKAGE)), module) in EXCEPT
                assert is_pure or known, f"{path} imports {name}"
                earlier = ROOMS.index(room_of(module)) <= ROOMS.index(room)
                assert earlier, f"{path} imports {name}"


def test_the_stub_declares_the_public_names():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    declared = {
        alias.name: node.module.removeprefix("dreamer_jax.")
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == dreamer_jax._MODULES
