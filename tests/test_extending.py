"""The examples of docs/extending.md, as files of their own, in training."""

import importlib.util
import re

import pytest
from commands import FORKS, PATIENCE, ROOT
from conftest import SHALLOW

from dreamer_jax import config as config_lib
from dreamer_jax import train
from dreamer_jax.configs import get_config
from dreamer_jax.metrics import PLOTTED
from dreamer_jax.report.metrics_log import read_metrics

CODE = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
EXAMPLES = {re.match(r'"""(\w+)\.py: ', code).group(1): code for code in CODE}
MAX_LINES = 40  # of code
# Examples that are trained together, on the environment of one of them.
RUNS = (("line", "shooting", "uniform"), ("drift", "unimix", "embedding", "weights"))
METRICS = {"embedding_loss", "actor_weights"}  # of the second run
TINY = {
    "seeds": 1,
    "steps": 48,
    "prefill": 32,
    "pretrain": 1,
    "train_every": 8,
    "batch": 2,
    "length": 6,
    "log_every": 16,
    "eval_every": 0,
    "eval_episodes": 0,
    "video_every": 0,
    "checkpoint_every": 0,
    "horizon": 2,
    "rssm": {"stoch": 2, "classes": 3, "deter": 8, "hidden": 8},
    "replay": {"capacity": 100},
    **SHALLOW,
}


def test_examples_are_short_and_trained():
    assert set(EXAMPLES) == {name for names in RUNS for name in names}
    for name, code in EXAMPLES.items():
        assert len([line for line in code.splitlines() if line]) <= MAX_LINES, name


@pytest.mark.parametrize("names", RUNS, ids="-".join)
def test_examples_train(names, tmp_path):
    # In a process of their own: what they register must not be seen by other tests.
    process = FORKS.Process(target=train_with, args=(names, tmp_path))
    process.start()
    process.join(PATIENCE)
    process.kill()
    process.join()
    assert process.exitcode == 0
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["model_loss"] is not None
    assert METRICS & set(rows[-1]) == (METRICS if "weights" in names else set())


def train_with(names, directory):
    """Train on a config that differs from a shipped one in all that the examples change."""
    base = dict(config_lib.flatten(get_config("reach")))
    changed, keys = {}, set(config_lib.KEYS)
    for name in names:
        given = load(name, directory).get_config()
        config_lib.validate(given)
        differing = {k: v for k, v in config_lib.flatten(given) if k in keys and base[k] != v}
        assert len(differing) <= 1, differing
        changed |= differing
    config = get_config("reach")
    config.update_from_flattened_dict(changed)
    config.update(TINY)
    train(config, directory / "run")
    assert ("actor_weights" in PLOTTED) == ("weights" in names)


def load(name, directory):
    """Import an example as a file."""
    path = directory / f"{name}.py"
    path.write_text(EXAMPLES[name])
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
