"""What a choice of the code is compared with computes the same."""

import jax
import numpy as np
import pytest
from conftest import make_tiny_config

from dreamer_jax import run as run_lib
from dreamer_jax.benchmark import choices
from dreamer_jax.benchmark.batches import make_batch
from dreamer_jax.benchmark.parts import make_inputs
from dreamer_jax.members import over_members
from dreamer_jax.model import matmul_convolutions, winograd
from dreamer_jax.names import UsageError

OTHER_NUMBERS = {"noise"}  # it draws its own


@pytest.fixture(scope="module")
def parts():
    head = {"layers": 1, "units": 8}
    heads = dict.fromkeys(("vector", "reward_head", "discount_head", "actor", "critic"), head)
    return run_lib.build(make_tiny_config(seeds=1, **heads))


@pytest.fixture(scope="module", autouse=True)
def small_slices():
    """Tiny images are in slices too."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (matmul_convolutions, winograd):
            patch.setattr(module, "CPU_SLICE", 2**12)
        yield


@pytest.fixture(scope="module")
def inputs(parts):
    make = jax.jit(over_members(lambda state, batch: make_inputs(parts.agent, state, batch)))
    return make(parts.init_state(), make_batch(parts, synthetic=True))


@pytest.fixture(scope="module")
def as_chosen(parts, inputs):
    """Per part its program, and its results."""
    known = {}

    def of(part):
        if part not in known:
            lowered = choices.trace(parts, choices.Choice("", "", part), inputs)
            known[part] = lowered.as_text(), lowered.compile()(inputs)
        return known[part]

    return of


NAMES = [
    pytest.param(name, marks=pytest.mark.slow if choice.part == "update" else ())
    for name, choice in choices.CHOICES.items()
]


@pytest.mark.parametrize("name", NAMES)
def test_the_other_way_is_another_program_with_the_same_results(parts, inputs, as_chosen, name):
    choice = choices.CHOICES[name]
    program, results = as_chosen(choice.part)
    lowered = choices.trace(parts, choice, inputs)
    other = lowered.compile()(inputs)
    if name != "eigen":  # the program is the same before it is compiled
        assert lowered.as_text() != program
    for one, two in zip(*map(jax.tree.leaves, (results, other)), strict=True):
        assert one.shape == two.shape
        if name not in OTHER_NUMBERS and jax.dtypes.issubdtype(one.dtype, np.number):
            scale = max(1.0, np.abs(one).max())
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-4 * scale)


def test_nothing_stays_changed(parts, inputs, as_chosen):
    before, _ = as_chosen("observe")
    choices.trace(parts, choices.CHOICES["kernel_grads"], inputs)
    choices.trace(parts, choices.CHOICES["remat"], inputs)
    lowered = choices.trace(parts, choices.Choice("", "", "observe"), inputs)
    assert lowered.as_text() == before


def test_rows_say_how_both_ways_compare(parts):
    (row,) = choices.measure_choices(parts, ["gru"], repeats=2)
    assert row["choice"] == "gru" and row["part"] == "observe"
    assert 0 < row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
    assert min(row[key] for key in ("ms", "other_ms", "bytes", "other_bytes")) > 0


def test_an_unknown_choice_is_refused_before_anything_is_compiled(parts):
    with pytest.raises(UsageError, match="'gruu'.*Did you mean 'gru'"):
        next(choices.measure_choices(parts, ["gruu"], repeats=1))


def test_an_agent_without_an_actor_is_refused():
    planet = run_lib.build(make_tiny_config(seeds=1, behavior="planet", task="reach"))
    with pytest.raises(UsageError, match="config.behavior 'dreamer'"):
        next(choices.measure_choices(planet, ["gru"], repeats=1))
