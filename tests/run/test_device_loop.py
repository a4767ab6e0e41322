"""The loop on the device: its bookkeeping, resumed runs, members, and what it refuses."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import SHALLOW, make_tiny_config
from jax_doubles import PLACES, JaxPlaces
from killing import newest, rows, to_numpy

from dreamer_jax import evaluate, train
from dreamer_jax.agent.placement import place_whole_members
from dreamer_jax.envs.jax_env import JaxVector
from dreamer_jax.errors import UsageError
from dreamer_jax.replay import device as device_replay
from dreamer_jax.replay.layout import make_layout
from dreamer_jax.replay.prefetch import to_batch
from dreamer_jax.replay.replay import Replay
from dreamer_jax.replay.samplers import Indices
from dreamer_jax.run import device_loop, device_trainer, memory, signals
from dreamer_jax.run.driver import Driver
from dreamer_jax.run.members import extract, join, list_members
from dreamer_jax.run.schedule import next_due, updates_due, work_due
from dreamer_jax.run.setup import RunSetup, build, replay_sizes
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.seeding import ENV_STREAM


def config_of(seeds=(7, 3), **changes):
    small = {"length": 8, "eval_every": 60, "horizon": 2, "steps": 120, "loop": "device"}
    config = make_tiny_config(**{"seeds": seeds, **small, **SHALLOW, **changes})
    config.env.num_envs = 2
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The work directory of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("runs") / "device"
    assert train(config_of(), workdir, PLACES)["finished"]
    return workdir


def stopped_after(calls, *args):
    """Expect a run to be interrupted, without a save, after so many calls of the program."""
    original, count = device_loop.DeviceLoop.run, itertools.count(1)

    def run(self, carried, until, *, catch_up):
        if next(count) > calls:
            raise KeyboardInterrupt
        return original(self, carried, until, catch_up=catch_up)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(device_loop.DeviceLoop, "run", run)
        train(*args)


def assert_same_arrays(found, expected):
    paths = jax.tree_util.tree_leaves_with_path(jax.tree.map(to_numpy, expected))
    leaves = jax.tree.leaves(jax.tree.map(to_numpy, found))
    for (path, leaf), other in zip(paths, leaves, strict=True):
        assert np.array_equal(leaf, other), jax.tree_util.keystr(path)


def assert_same_run(workdir, reference, make_env=PLACES):
    assert rows(workdir) == rows(reference)
    (arrays, host), (expected, expected_host) = (newest(x, make_env) for x in (workdir, reference))
    assert {"state", "carry", "loop"} == arrays.keys()
    assert_same_arrays(arrays, expected)
    assert host | {"log": None} == expected_host | {"log": None}


# Bookkeeping.


def test_records_and_statistics_are_those_of_the_hosts_driver(finished):
    """The host steps the same environments with the recorded actions into its own replay."""
    setup = build(config_of(), PLACES)
    replay = newest(finished, PLACES)[0]["loop"]["replay"]
    layout = replay_sizes(setup.config, setup.agent, setup.action)
    host = Replay(seeds=setup.seeds, batch=1, sampling="time", directory=None, **layout)
    vector = JaxVector(setup.jax_env, setup.row_maker(ENV_STREAM, 2), 4)
    driver = Driver(vector, host, setup.seeds, setup.obs_keys)
    statistics = []
    for step in range(60):
        driver.reset_finished()
        place = (*np.indices((2, 2)), host.written)
        driver.step(replay.records["action"][place])
        if step % 20 == 19:
            statistics += driver.stats.pop()
    np.testing.assert_array_equal(replay.written, host.written)
    starts = np.arange(60 - 8)[None].repeat(2, 0)
    for env in range(2):
        expected = host.gather(Indices(np.full_like(starts, env), starts))
        draws = device_replay.Draws(
            jnp.full_like(starts, env), jnp.asarray(starts), jnp.zeros(2) > 0
        )
        gathered = device_replay.gather(jax.tree.map(jnp.asarray, replay), draws, 8)
        for key, value in gathered.items():
            np.testing.assert_array_equal(value, expected[key], key)
    logged = [row for row in rows(finished) if "train_episodes" in row]
    assert [row["env_step"] for row in logged] == [40, 40, 80, 80, 120, 120]
    for row, expected in zip(logged, statistics, strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert {row["update"] for row in logged} == {0, 5, 10}
    actions = replay.records["action"][:, :, :20]
    assert set(actions.ravel().tolist()) == {-1, 0, 1, 2}


def carried_of(setup, turns):
    arrays = setup.init_arrays()
    progress = device_loop.Progress(*(jnp.int32(n) for n in (0, 0, turns)))
    loop = arrays["loop"]
    parts = arrays["state"], arrays["carry"], loop["state"], loop["replay"]
    return device_loop.Carried(progress, *parts)


def with_turns(carried, turns):
    return carried.replace(progress=carried.progress.replace(turns=jnp.int32(turns)))


def copy(tree):
    return jax.tree.map(jnp.copy, tree)


@pytest.mark.slow
def test_a_turn_is_the_update_or_the_step_that_the_hosts_functions_make():
    setup = build(config_of(), PLACES)
    run = setup.device_loop.run
    before = run(carried_of(setup, 10_000), 40, catch_up=False)
    assert (int(before.progress.env_step), int(before.progress.update)) == (40, 0)
    kept = copy(before)

    # One turn is the first update, of a batch that the member's key draws.
    after = run(with_turns(before, 1), 60, catch_up=False)
    assert (int(after.progress.env_step), int(after.progress.update)) == (40, 1)
    keys = jax.vmap(jax.random.split)(kept.loop.draw_key)[:, 1]
    draws = device_replay.draw(kept.replay, keys, sampling="time", batch=3, length=8)
    batch = to_batch(device_replay.gather(kept.replay, draws, 8))
    state, metrics = setup.fns.train_step(copy(kept.state), batch)
    for found, expected in zip(jax.tree.leaves(after.state.params), jax.tree.leaves(state.params),
                               strict=True):  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert set(after.loop.sums) == set(metrics)
    for name, value in metrics.items():
        np.testing.assert_allclose(after.loop.sums[name], value, rtol=1e-4, atol=1e-5)
    assert_same_arrays(after.replay, kept.replay)

    # The next one is a step, in which the policy acts on the observations after resets.
    kept = copy(after)
    after = run(with_turns(after, 1), 60, catch_up=False)
    assert (int(after.progress.env_step), int(after.progress.update)) == (42, 1)
    first = np.asarray(kept.loop.is_first)
    written = np.asarray(kept.replay.written) + first  # after the records of resets
    assert np.array_equal(after.replay.written, written + 1)
    place = *np.indices((2, 2)), written
    obs = np.asarray(after.replay.records["obs/vector"])[(*place[:2], written - 1)]
    inputs = kept.state.params, kept.carry, {"vector": obs}, first
    carry, action = setup.fns.explore_step(*inputs, kept.state.update)
    recorded = np.asarray(after.replay.records["action"])[place]
    np.testing.assert_array_equal(recorded, np.asarray(action).argmax(-1))
    assert np.array_equal(*(jax.random.key_data(x.key) for x in (after.carry, carry)))

    # Where calls end has no effect.
    long, short = copy(after), after
    long = run(with_turns(long, 10_000), 60, catch_up=True)
    while int(short.progress.env_step) < 60 or int(short.progress.update) < 3:
        short = run(with_turns(short, 1), 60, catch_up=True)
    assert int(long.progress.update) == updates_due(setup.config, 60) == 3
    assert_same_arrays(*(with_turns(x, 0) for x in (long, short)))


@pytest.mark.slow
def test_members_are_mapped_together_as_on_accelerators():
    setup = build(config_of(), PLACES)
    backend = dataclasses.replace(setup.agent.backend, map_members_together=True)
    agent = dataclasses.replace(setup.agent, backend=backend)
    layout = make_layout(**replay_sizes(setup.config, agent, setup.action))
    parts = setup.config, agent, setup.jax_env, layout, setup.placement
    found, expected = (
        loop.run(carried_of(setup, 10_000), 60, catch_up=True)
        for loop in (device_loop.DeviceLoop(*parts), setup.device_loop)
    )
    assert_same_arrays(found.replay, expected.replay)
    for name, value in expected.loop.sums.items():
        np.testing.assert_allclose(found.loop.sums[name], value, rtol=1e-3, atol=1e-4)


def test_work_is_next_due_where_it_is_due():
    config = make_tiny_config(log_every=30, eval_every=50, video_every=0, checkpoint_every=70)
    config.env.num_envs = 4
    due = [step for step in range(4, 201, 4) if work_due(config, step)]
    assert due == [32, 52, 60, 72, 92, 100, 120, 140, 152, 180, 200]
    for step in range(0, 200, 4):
        reached = next(t for t in due if t > step)
        assert reached - 4 < next_due(config, step) <= reached


# Runs.


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_exactly(finished, tmp_path):
    stopped_after(9, config_of(), tmp_path / "run", PLACES)
    steps = [int(path.name) for path in WorkDir(tmp_path / "run").checkpoints.iterdir()]
    assert steps and max(steps) < 120
    assert train(config_of(), tmp_path / "run", PLACES)["finished"]
    assert_same_run(tmp_path / "run", finished)
    assert not WorkDir(tmp_path / "run").replay.exists()
    assert len(evaluate(tmp_path / "run", episodes=2, make_env=PLACES)["members"]) == 2


@pytest.mark.slow
def test_a_run_that_is_stopped_before_its_first_record_can_be_resumed(finished, tmp_path):
    def stop(self):
        raise signals.Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_trainer.DeviceTrainer, "_check_stop", stop)
        result = train(config_of(), tmp_path / "run", PLACES)
    assert not result["finished"] and result["env_step"] == 0
    train(config_of(), tmp_path / "run", PLACES)
    assert_same_run(tmp_path / "run", finished)


@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 1000])
def test_the_first_update_decides_whether_there_is_anything_to_learn(tmp_path, monkeypatch, turns):
    """However fast the machine is: an episode of the eight records of a sequence ends later."""

    def open_envs(self, closing):
        self._turns = turns

    monkeypatch.setattr(device_trainer.DeviceTrainer, "_open_envs", open_envs)
    config = config_of(prefill=8, train_every=2)
    config.replay.sampling = "episodes"
    with pytest.raises(UsageError, match="no sequence of config.length = 8 steps"):
        train(config, tmp_path / "run", PLACES)


@pytest.mark.slow
def test_open_episodes_of_changed_code_are_truncated(tmp_path, monkeypatch, capsys):
    stopped_after(9, config_of(), tmp_path / "run", PLACES)
    monkeypatch.setattr("dreamer_jax.run.trainer.changed_code", lambda *_: "the code has changed")
    assert train(config_of(), tmp_path / "run", PLACES)["finished"]
    printed = capsys.readouterr().out
    assert "the code has changed" in printed and "4 of 4 environments could not" in printed
    records = newest(tmp_path / "run", PLACES)[0]["loop"]["replay"].records
    truncated = records["is_last"] & ~records["is_terminal"]
    assert truncated.sum(2).tolist() == [[1, 1], [1, 1]]
    after = np.roll(truncated, 1, 2)
    assert records["is_first"][after].all() and set(records["action"][after]) == {-1}


@pytest.mark.slow
def test_a_member_is_as_alone(finished, tmp_path):
    train(config_of((3,)), tmp_path / "one", PLACES)
    second = [row | {"member": 0} for row in rows(finished) if row["member"] == 1]
    for row, alone in zip(second, rows(tmp_path / "one"), strict=True):
        assert row == pytest.approx(alone, rel=1e-5, abs=1e-7)
    two, one = (newest(path, PLACES)[0]["loop"]["replay"] for path in (finished, tmp_path / "one"))
    assert_same_arrays(jax.tree.map(lambda x: x[1:], two), one)


@pytest.mark.slow
def test_members_are_extracted_and_joined(finished, tmp_path):
    stopped_after(9, config_of(), tmp_path / "run", PLACES)
    for number, name in ((0, "a"), (1, "b")):
        extract(tmp_path / "run", [number], tmp_path / name, make_env=PLACES)
    join(tmp_path / "a", tmp_path / "b", tmp_path / "both", make_env=PLACES)
    assert_same_arrays(*(newest(tmp_path / x, PLACES)[0] for x in ("both", "run")))
    assert train(config_of(), tmp_path / "both", PLACES)["finished"]
    assert_same_run(tmp_path / "both", finished)
    members = list_members(tmp_path / "b", make_env=PLACES)
    assert [member["seed"] for member in members] == [3]


@pytest.mark.slow
def test_a_member_with_damaged_parameters_freezes_alone(finished, tmp_path, monkeypatch):
    original = RunSetup.init_state

    def poisoned(setup):
        state = original(setup)
        actor = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), state.params["actor"])
        return state.replace(params={**state.params, "actor": actor})

    monkeypatch.setattr(RunSetup, "init_state", poisoned)
    train(config_of(max_nonfinite=4), tmp_path / "run", PLACES)
    last = [row for row in rows(tmp_path / "run") if row["member"] == 0 and "frozen" in row][-1]
    assert last["frozen"] and last["skipped_updates"] == 4 and "model_loss" not in last
    others = [[row for row in rows(x) if row["member"] == 1] for x in (finished, tmp_path / "run")]
    assert others[0] == others[1]


class Short(JaxPlaces):
    """Ends after two steps."""

    def step(self, key, state, action):
        state, obs, reward, terminated, truncated = super().step(key, state, action)
        return state, obs, reward, terminated | (state.row >= 2), truncated


@pytest.mark.slow
def test_episodes_shorter_than_a_sequence_are_explained(tmp_path):
    config = config_of()
    config.replay.sampling = "episodes"
    with pytest.raises(UsageError, match="config.replay.sampling = 'time'"):
        train(config, tmp_path / "run", Short())


class SometimesShort(JaxPlaces):
    """Ends after two steps, or has the eight records of a sequence, by where the ball falls."""

    def step(self, key, state, action):
        state, obs, reward, terminated, truncated = super().step(key, state, action)
        is_short = (state.ball % 2 == 0) & (state.row >= 2)
        return state, obs, reward, terminated | is_short, truncated


@pytest.mark.slow
@pytest.mark.parametrize("sampling, times", [("episodes", 1), ("time", 0)])
def test_episodes_that_are_never_drawn_from_are_said_once(tmp_path, capsys, sampling, times):
    config = config_of(prefill=40)
    config.replay.sampling = sampling
    assert train(config, tmp_path / "run", SometimesShort())["finished"]
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("some episodes are shorter than config.length = 8 records") == times


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"task": "reach", "replay": {"sampling": "episodes"}, "steps": 160, "prefill": 80},
        {
            "expl": {"until": 80, "noise": "epsilon_greedy"},
            "video_every": 60,
            "video_length": 12,
            "task": "catch",
        },
        {
            "pretrain": 3,
            "train_every": 10,
            "train_updates": 4,
            "expl": {"behavior": "plan2explore"},
        },
    ],
)
def test_other_configs(tmp_path, changes):
    config = config_of(**changes)
    result = train(config, tmp_path / "run", None if "task" in changes else PLACES)
    assert result["finished"] and result["update"] == updates_due(config, config.steps)
    assert [row for row in rows(tmp_path / "run") if "model_loss" in row]
    if "video_every" in changes:
        videos = tmp_path / "run" / "videos"
        assert len(list(videos.glob("*.gif"))) == len(list(videos.glob("*.json"))) == 4
        for path in videos.glob("*.json"):  # of catch, whose episodes have 8 records
            error = json.loads(path.read_text())["error"]["image"]
            assert [value is not None for value in error] == [True] * 8 + [False] * 4


# What does not fit.


def test_memory_is_checked_before_it_is_taken(tmp_path, monkeypatch):
    config = config_of()
    config.replay.capacity = 10**12
    with pytest.raises(UsageError, match=r"needs .* GB of memory.*capacity of at most about \d+,"):
        train(config, tmp_path / "run", PLACES)
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**6)
    config.replay.capacity = 10_000
    with pytest.raises(UsageError, match="1.0 MB are free") as error:
        train(config, tmp_path / "other", PLACES)
    config.replay.capacity = int(str(error.value).split("at most about ")[1].split(",")[0])
    assert config.replay.capacity > 1000
    device_trainer.check_memory(build(config, PLACES))
    config.replay.capacity += 200
    with pytest.raises(UsageError):
        device_trainer.check_memory(build(config, PLACES))


@pytest.mark.slow
def test_a_checkpoint_holds_the_records_that_were_written(finished):
    """60 steps of two environments and the first observations of their episodes, of 500 slots."""
    item = WorkDir(finished).checkpoints / "120" / "loop"
    records = ocp.StandardCheckpointHandler().metadata(item).tree["replay"]["records"]
    written = newest(finished, PLACES)[0]["loop"]["replay"].written
    assert 60 < written.max() < 75
    assert records["is_last"].shape == (2, 2, written.max())
    assert records["obs/vector"].shape == (2, 2, written.max(), 3)


def test_no_argument_of_the_program_is_weakly_typed():
    """It would be compiled again for its own results, which are not."""
    arrays = jax.eval_shape(build(config_of(), PLACES).init_arrays)["loop"]
    assert not [x for x in jax.tree.leaves(arrays) if x.weak_type]


@pytest.mark.slow
def test_the_replay_is_not_copied_in_the_program():
    config = config_of()
    config.replay.capacity = 2_000_000
    setup = build(config, PLACES)
    found = setup.device_loop.lower(setup.saved_shapes()).compile().memory_analysis()
    assert found.temp_size_in_bytes < 0.05 * setup.replay_bytes() < found.argument_size_in_bytes


def test_devices_hold_whole_members(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: list(range(8)))
    counts = [len(place_whole_members(members, 0).devices) for members in (1, 6, 8, 20)]
    assert counts == [1, 6, 8, 5]
    with pytest.raises(
        UsageError, match="config.devices is 4; allowed .*: 0, or one of 1, 2, 3, 6"
    ):
        place_whole_members(6, 4)


def test_a_stream_needs_no_slack_on_the_device():
    setup = build(config_of(), PLACES)
    # 500 records of 3 + 2 numbers and 3 flags for each of two members' two environments.
    assert setup.replay_bytes() == 2 * 2 * 500 * (5 * 4 + 3)
