"""Jobs of sweeps: names, configs, commands, and states read from work directories."""

import fcntl
import threading
import time

import pytest
from commands import forked_command
from sweep_files import small_config, write_sweep

from dreamer_jax import config as config_lib
from dreamer_jax.commands import train
from dreamer_jax.commands.flags import load_config, parse, words
from dreamer_jax.commands.sweep import list_jobs, summarize
from dreamer_jax.configs import atari55, dmc20
from dreamer_jax.errors import UsageError
from dreamer_jax.launch.jobs import Job, choose, job_name, make_jobs
from dreamer_jax.launch.local import make_slots, run_jobs
from dreamer_jax.launch.plan import Planner
from dreamer_jax.launch.process import run
from dreamer_jax.launch.state import (
    FAILED,
    FINISHED,
    NEW,
    RUNNING,
    UNFINISHED,
    others,
    read_state,
)
from dreamer_jax.run.workdir import WorkDir


def jobs_of(given, workdir="runs", flags=()):
    return make_jobs(given, load_config(given), flags, workdir)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({}, "base"),
        ({"task": "atari:pong", "kl_scale": 0.1}, "task=atari_pong,kl_scale=0.1"),
        ({"members.kl_scale": (0.1, 1)}, "members.kl_scale=0.1+1"),
        ({"replay.slack": None, "wandb.tags": "a b/c"}, "replay.slack=None,wandb.tags=a_b_c"),
    ],
)
def test_names_suit_file_systems(overrides, name):
    assert job_name(overrides) == name


def test_long_names_are_cut_and_differ():
    names = {job_name({"wandb.tags": "x" * 300 + end}) for end in "ab"}
    assert len(names) == 2 and all(len(name) == 150 for name in names)


def test_names_do_not_depend_on_the_order_or_the_type_of_overrides(tmp_path):
    a = write_sweep(tmp_path / "a.py", [{"kl_scale": 1, "rssm": {"deter": 8}}])
    b = write_sweep(tmp_path / "b.py", [{"rssm.deter": 8, "kl_scale": 1.0}])
    assert [job.name for job in jobs_of(str(a))] == ["kl_scale=1.0,rssm.deter=8"]
    assert [job.name for job in jobs_of(str(a))] == [job.name for job in jobs_of(str(b))]


@pytest.mark.parametrize("given", ["atari55:release", "ablations:pong", "dmc20", "catch_sweep"])
def test_commands_train_the_configs_of_their_jobs(given):
    jobs = jobs_of(given, flags=["--config.steps=60_000"])
    for job in jobs[:9]:
        with job.config.ignore_type():
            job.config.steps = 60_000
        args = parse("dreamer-jax train", train.COMMAND, job.arguments[1:])
        assert args.config == job.config and args.workdir == str(job.workdir)
        assert not job.error


def test_commands_keep_values_of_every_type(tmp_path):
    overrides = {
        "members": {"kl_scale": [0.1], "discount": [0.9, 1]},
        "seeds": [3, 5],
        "wandb": {"group": "a group", "entity": None},
        "norm": True,
        "env.num_envs": 2,
        "env.kwargs": {"map_name": "8x8", "costs": [1.5, None], "deep": {"a b": True}},
    }
    (job,) = jobs_of(str(write_sweep(tmp_path / "a.py", [overrides])))
    config = parse("dreamer-jax train", train.COMMAND, job.arguments[1:]).config
    assert config_lib.to_json(config) == config_lib.to_json(job.config)
    assert (list(config.members.kl_scale), config.wandb.group) == ([0.1], "a group")
    assert "\n" not in job.command


def test_shipped_sweeps_have_the_jobs_that_they_say():
    assert len(set(atari55.GAMES)) == 55 and len(set(dmc20.TASKS)) == 20
    assert [len(jobs_of(given)) for given in ("atari55", "dmc20", "catch_sweep:debug")] == [
        55, 20, 8,
    ]  # fmt: skip
    assert len(jobs_of("ablations:pong")) == 1 + 8
    grid = jobs_of("hyper_grid:release")
    assert len(grid) == 5 and len(grid[0].config.members.kl_scale) == 4
    assert {job.config.seeds for job in jobs_of("atari55")} == {5}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([{"kl_scal": 1}], "config.kl_scal does not exist. Did you mean 'kl_scale'"),
        ([{"kl_scale": 1}, {"kl_scale": 1.0}], "adds the job 'kl_scale=1.0' twice"),
        ([], "adds no job"),
    ],
)
def test_mistakes_in_a_sweep_are_named(tmp_path, overrides, message):
    with pytest.raises(UsageError, match=message):
        jobs_of(str(write_sweep(tmp_path / "a.py", overrides)))


def test_a_config_without_a_sweep_is_named():
    with pytest.raises(UsageError, match="catch defines no function sweep"):
        jobs_of("catch")


def test_an_invalid_job_fails_alone(tmp_path):
    file = write_sweep(tmp_path / "a.py", [{"horizon": 1}, {"horizon": 3}])
    bad, good = jobs_of(str(file), tmp_path / "runs")
    assert read_state(bad).kind == FAILED and "config.horizon is 1" in read_state(bad).detail
    assert read_state(good).kind == NEW


def test_jobs_are_chosen_by_number_or_name():
    jobs = jobs_of("catch_sweep")
    assert choose(jobs, []) == jobs
    assert "," in jobs[0].name
    assert choose(jobs, words(f"3,{jobs[0].name},{jobs[7].name},3")) == [jobs[3], jobs[0], jobs[7]]
    for wrong in ("8", "-1", "horizon=5", f"{jobs[0].name},9"):
        with pytest.raises(UsageError, match="allowed: numbers from 0 to 7, or names"):
            choose(jobs, words(wrong))


def make_job(tmp_path, *arguments, name="job", **changes):
    return Job(name, small_config(**changes), "", tmp_path / name, arguments)


def test_states_follow_the_work_directory(tmp_path):
    job = make_job(tmp_path)
    assert read_state(job).kind == NEW
    with job.work.claim(job.config):
        job.work.metrics.write_text('{"member": 0, "env_step": 80}\n{"member": 1, "env_')
        state = read_state(job)
        assert (state.kind, state.env_step) == (RUNNING, 80) and "process" in state.detail
    assert read_state(job)[::2] == (UNFINISHED, 80)
    with pytest.raises(KeyError), job.work.claim(job.config):
        raise KeyError("lost")
    assert read_state(job) == (FAILED, "KeyError: 'lost'", 80)
    with job.work.claim(job.config):
        pass
    assert read_state(job).kind == UNFINISHED
    job.work.write_summary({"env_step": 160, "update": 9, "members": []})
    assert read_state(job) == (FINISHED, "", 160)
    assert read_state(make_job(tmp_path, steps=200)).kind == UNFINISHED
    other = read_state(make_job(tmp_path, kl_scale=0.7))
    assert other.kind == FAILED and "kl_scale: 0.1 -> 0.7" in other.detail
    assert others(tmp_path, []) == ["job"] and others(tmp_path, [job]) == []


def test_a_directory_can_be_claimed_while_its_state_is_read(tmp_path):
    job = make_job(tmp_path)
    with job.work.claim(job.config):
        pass
    with open(job.work.lock) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        release = threading.Timer(0.2, fcntl.flock, (lock, fcntl.LOCK_UN))
        release.start()
        with job.work.claim(job.config):
            assert job.work.owner()
        release.join()


def test_a_job_that_cannot_begin_leaves_its_error(tmp_path):
    job = make_job(tmp_path, "trian")
    state = run(job)
    assert state.kind == FAILED and state.detail.startswith("command is 'trian'; choose")
    assert read_state(job) == state and "trian" in job.output.read_text()
    with job.work.claim(job.config):  # the note is not in the way of a run
        assert not job.work.error.exists()


def test_a_job_that_runs_elsewhere_is_left_alone(tmp_path):
    job = make_job(tmp_path, "trian")
    with job.work.claim(job.config):
        began = time.monotonic()
        assert run(job, patience=0.5).kind == RUNNING
        assert time.monotonic() - began > 0.5
        run_jobs([job], make_slots(1, []), report=lambda job, state: None)
    assert not job.output.exists()


def test_one_failing_job_does_not_keep_others_from_running(tmp_path):
    jobs = [make_job(tmp_path, "trian", name="a"), make_job(tmp_path, "--help", name="b")]
    seen = []
    run_jobs(jobs, make_slots(2, []), report=lambda job, state: seen.append((job.name, state.kind)))
    assert sorted(seen) == [("a", FAILED), ("a", RUNNING), ("b", NEW), ("b", RUNNING)]


def test_a_directory_that_cannot_be_read_is_a_failure_of_its_job_alone(tmp_path):
    jobs = [make_job(tmp_path, "--help", name=name) for name in ("file", "text", "fine")]
    (tmp_path / "file").write_text("")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_bytes(b"\xff")
    assert [read_state(job).kind for job in jobs] == [NEW, FAILED, NEW]
    seen = {}
    note = {"report": lambda job, state: seen.update({job.name: state})}
    broken = run_jobs(jobs, make_slots(1, []), **note)
    assert broken == {"file": seen["file"]} and summarize(jobs, broken) == {NEW, FAILED}
    assert seen["file"].kind == FAILED and "Not a directory" in seen["file"].detail
    assert seen["text"].kind == FAILED and "codec can't decode" in seen["text"].detail
    assert seen["fine"].kind == NEW


@pytest.mark.parametrize("gpus", [[""], ["0", ""]])
def test_empty_names_of_gpus_are_refused(gpus):
    with pytest.raises(UsageError, match="allowed: names of GPUs"):
        make_slots(len(gpus), gpus)


def test_devices_are_divided():
    two = make_slots(2, ["0", "1", "2", "3"])
    assert [slot.environment for slot in two] == [
        {"CUDA_VISIBLE_DEVICES": "0,1"},
        {"CUDA_VISIBLE_DEVICES": "2,3"},
    ]
    shared = make_slots(4, ["5", "7"])
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in shared] == ["5", "7", "5", "7"]
    assert {slot.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for slot in shared} == {"0.45"}
    assert make_slots(1, [])[0].environment == {}
    with pytest.raises(UsageError, match="--at_once is 2 and there are 3 GPUs"):
        make_slots(2, ["0", "1", "2"])


def test_cores_are_divided():
    slots = make_slots(2, [])
    cores = [core for slot in make_slots(1, []) for core in slot.cores]
    if len(cores) > 1:
        assert sorted(slots[0].cores + slots[1].cores) == cores
    assert all(len(slot.cores) == 1 for slot in make_slots(len(cores) + 1, []))


def test_sizes_are_those_of_all_members():
    planner = Planner()
    one, three = (planner.size(small_config(seeds=n, kl_scale=n)) for n in (1, 3))
    assert (three.state, three.replay) == (3 * one.state, 3 * one.replay)
    assert len(planner._known) == 1
    assert planner.size(small_config(rssm={"deter": 20})).state != one.state


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--launcher=locl"], "Did you mean 'local'"),
        (
            ["--launcher=list", "--at_once=2"],
            "--at_once is a flag of --launcher=local, not of list",
        ),
        (["--launcher=ray", "--gpus_per_job=1.5"], "'1.5' was given; allowed: a whole number, or"),
        (["--launcher=slurm", "--slurm=gpu"], "'gpu' was given; allowed: name=value"),
        (["--jobs=8"], "allowed: numbers from 0 to 7"),
        (["--workdir="], "the work directory is ''; allowed: the path of a directory"),
    ],
)
def test_mistakes_in_flags_are_named(tmp_path, flags, message):
    given = ["--config=catch_sweep", f"--workdir={tmp_path}/runs", *flags]
    status, out, err = forked_command("sweep", *given, cache=tmp_path)
    assert status == 2 and message in err and not out
    assert not (tmp_path / "runs").exists()


def test_a_list_is_a_shell_script(tmp_path):
    file = write_sweep(tmp_path / "a.py", [{"kl_scale": 1}, {"horizon": 1}, {"task": "gym:None"}])
    WorkDir(tmp_path / "runs" / "old").path.mkdir(parents=True)
    (tmp_path / "runs" / "old" / "config.json").write_text("{}")
    flags = [f"--config={file}", f"--workdir={tmp_path}/runs", "--config.seeds=2"]
    status, out, err = forked_command("sweep", *flags, cache=tmp_path)
    assert status == 0, err
    comments = [line for line in out.splitlines() if line.startswith("#")]
    commands = [line for line in out.splitlines() if not line.startswith("#")]
    assert comments[0].startswith("# 0 kl_scale=1.0: not begun; 2 members, 160 steps, ")
    assert "failed (config.horizon is 1" in comments[1] and "size unknown" in comments[2]
    assert comments[3:] == [
        "# 3 jobs: 2 not begun, 1 failed", "# no longer in the sweep: old",
    ]  # fmt: skip
    run_dir = tmp_path / "runs" / "kl_scale=1.0"
    assert commands[0] == (
        f"dreamer-jax train --config={file} --config.seeds=2 --config.kl_scale=1.0 "
        f"--workdir={run_dir}"
    )


@pytest.mark.slow
def test_a_thousand_jobs_are_listed_in_ten_seconds(tmp_path, capsys):
    jobs = [{"kl_scale": n / 10, "task": f"atari:{g}"} for g in atari55.GAMES for n in range(18)]
    jobs += [{"kl_scale": n / 10} for n in range(10)]
    file = str(write_sweep(tmp_path / "a.py", jobs))
    for job in jobs_of(file, tmp_path / "runs")[:300]:
        with job.work.claim(job.config):
            job.work.write_summary({"env_step": 160, "update": 9, "members": []})
    began = time.process_time()  # what the machine does beside it does not count
    made = jobs_of(file, tmp_path / "runs")
    list_jobs(made, made)
    assert time.process_time() - began < 10
    out = capsys.readouterr().out
    assert "# 1000 jobs: 700 not begun, 300 finished" in out
    assert out.count("on the device") == 1000
