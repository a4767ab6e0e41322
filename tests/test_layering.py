"""Each room imports only from rooms above it, and the pure rooms from no host package."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dreamer_jax"

# From the top down. A module may import from the lines above its own and from its own line.
ROOMS = [
    ["types", "names", "settings", "atomic", "rows"],
    [
        "compiling",
        "model.distributions",
        "model.activations",
        "model.image_slices",
        "model.recurrence",
    ],
    ["model.matmul_convolutions"],
    ["model.winograd"],
    ["model.convolutions"],
    ["model.latents", "model.networks"],
    ["model.rssm", "model.objectives", "model.kl"],
    ["model.world_model"],
    ["optimizer", "train_state", "reference"],
    ["behavior.returns", "behavior.interface"],
    ["behavior.imagination", "behavior.exploration"],
    ["behavior.actor_critic"],
    ["behavior.dreamer", "behavior.planet"],
    ["behavior.plan2explore"],
    ["grid"],
    ["keys"],
    ["config"],
    ["config_file"],
    ["member_data"],
    ["guard", "placement"],
    ["agent"],
    ["build", "members", "benchmark.flops"],
    # From here on: host.
    ["envs"],
    ["replay_storage", "replay_index"],
    ["replay_space", "replay_rings", "digest", "signals", "aggregates", "unsent"],
    ["replay", "replay_copy", "logger", "video", "curves", "progress", "workdir", "checkpoint"],
    ["wandb_session"],
    ["wandb_runs"],
    ["driver", "prefetch", "saver", "recorder"],
    ["run"],
    ["saved", "open_loop"],
    ["evaluation", "run_copy"],
    ["trainer"],
    ["membership"],
    ["benchmark.timing", "benchmark.batches", "benchmark.clock", "benchmark.table"],
    ["runtime", "benchmark.peaks", "benchmark.update", "benchmark.parts", "benchmark.loop"],
    ["benchmark.plan", "benchmark.choices"],
    ["benchmark.suite"],
    ["cli"],
]
PURE = [
    room for line in ROOMS[: next(i for i, r in enumerate(ROOMS) if "envs" in r)] for room in line
]
RANK = {room: rank for rank, line in enumerate(ROOMS) for room in line}
HOST_PACKAGES = {"gymnasium", "ale_py", "cv2", "matplotlib", "PIL", "rich", "orbax", "wandb"}


def room_of(name: str) -> str:
    """The room of a module's dotted name within the package."""
    return "envs" if name.split(".")[0] == "envs" else name


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_room():
    assert {room_of(name) for name, _ in modules()} == set(RANK)


@pytest.mark.parametrize(("name", "path"), list(modules()))
def test_imports_point_upwards(name, path):
    own = room_of(name)
    for imported in imports(path):
        if not imported.startswith("dreamer_jax."):
            continue
        parts = imported.removeprefix("dreamer_jax.").split(".")
        target = next(
            room_of(".".join(parts[:n]))
            for n in range(len(parts), 0, -1)
            if room_of(".".join(parts[:n])) in RANK
        )
        same_line = RANK[target] == RANK[own]
        assert RANK[target] < RANK[own] or same_line, f"{own} imports {target}, which is below it"


@pytest.mark.parametrize(("name", "path"), [m for m in modules() if room_of(m[0]) in PURE])
def test_pure_rooms_touch_no_host_package(name, path):
    assert not {imported.split(".")[0] for imported in imports(path)} & HOST_PACKAGES
