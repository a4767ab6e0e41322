"""Compiled programs that are kept with a run."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from jax.experimental.compilation_cache import compilation_cache
from jax_doubles import PLACES
from member_runs import killed_after, make_env, member_config

from dreamer_jax import train
from dreamer_jax.agent.members import MemberFns
from dreamer_jax.run import setup
from dreamer_jax.run.programs import KEPT, Programs
from dreamer_jax.runtime import make_backend


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


X = np.arange(3.0, dtype=np.float32)


@pytest.fixture(autouse=True)
def no_cache():
    """Compile anew: on a CPU, XLA cannot serialize what came from the compilation cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a process's programs, and what they say."""

    def programs(function=double, notes=None, directory=tmp_path / "programs"):
        said = []
        made = Programs(directory, jax.local_devices()[:1], said.append)
        if notes is not None:
            made.restore(notes)
        fns = made.keep(MemberFns(*[jax.jit(function)] * len(MemberFns._fields)))
        return made, fns, said

    return programs


def test_a_resumed_run_calls_the_program_that_was_kept(start, tmp_path):
    """Seen by giving it another one with the same arguments, in its file."""
    made, fns, said = start()
    np.testing.assert_array_equal(fns.train_step(X), 2 * X)
    (file,) = (tmp_path / "programs").iterdir()
    assert file.name.startswith("train_step-") and [*made.state()] == ["train_step"]
    assert start(notes=made.state())[1].train_step(X)[1] == 2 * X[1]
    start(triple)[1].train_step(X)
    (other,) = {*(tmp_path / "programs").iterdir()} - {file}
    file.write_bytes(other.read_bytes())
    resumed, fns, said = start(notes=made.state())
    np.testing.assert_array_equal(fns.train_step(X), 3 * X)
    assert len(said) == 1 and "train_step is another program than before" in said[0]
    assert resumed.state()["train_step"]["key"] == made.state()["train_step"]["key"]


def test_the_same_program_needs_no_word(start):
    made, fns, said = start()
    for name in KEPT:
        getattr(fns, name)(X)
    again, fns, said = start(notes=made.state())
    for name in KEPT:
        getattr(fns, name)(X)
    assert said == [] and again.state() == made.state()
    # Notes of what has not been called yet outlive a checkpoint.
    assert start(notes=made.state())[0].state() == made.state()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("lost", "the kept one is not in .*programs any more"),
        ("code", "the code, the config, or the number of members on a device has changed"),
        ("target", "compiled for another GPU before, now for cpu"),
    ],
)
def test_another_program_is_announced(start, tmp_path, change, reason):
    made, fns, _ = start()
    fns.policy_step(X)
    notes = made.state()
    if change == "lost":
        next((tmp_path / "programs").iterdir()).unlink()
        notes["policy_step"] |= {"program": "of another compilation"}
    if change == "target":
        notes["policy_step"] |= {"target": "another GPU", "key": "0"}
    _, fns, said = start(triple if change == "code" else double, notes)
    fns.policy_step(X)
    (text,) = said
    assert text.startswith("policy_step is another program than before the resume")
    assert re.search(reason, text), text


def test_a_program_that_cannot_be_kept_or_read_is_compiled(start, tmp_path):
    (tmp_path / "programs").write_text("a file")
    _, fns, said = start()
    np.testing.assert_array_equal(fns.policy_step(X), 2 * X)
    assert len(said) == 1 and "could not be kept" in said[0]
    (tmp_path / "programs").unlink()
    start()[1].policy_step(X)
    next((tmp_path / "programs").iterdir()).write_bytes(b"damaged")
    _, fns, said = start()
    np.testing.assert_array_equal(fns.policy_step(X), 2 * X)
    assert len(said) == 1 and "cannot be used" in said[0]


def test_the_long_wait_for_the_update_is_announced(start):
    _, fns, said = start()
    for name in KEPT:
        getattr(fns, name)(X)
    assert said == ["compiling the update, which can take minutes"]
    _, fns, said = start()
    fns.train_step(X)
    assert said == []


def test_without_a_directory_programs_are_only_noted(start):
    made, fns, _ = start(directory=None)
    fns.train_step(X)
    assert made.state()["train_step"]["program"] is None
    _, fns, said = start(directory=None, notes=made.state())
    fns.train_step(X)
    assert said == []


@pytest.fixture
def keeping(monkeypatch):
    """The backend of a CPU, with the choices for a GPU in this respect."""
    backend = dataclasses.replace(make_backend("cpu"), keep_programs=True)
    monkeypatch.setattr(setup, "make_backend", lambda device: backend)


def kept_programs(workdir):
    return {path.name: path.read_bytes() for path in (workdir / "programs").iterdir()}


def names(programs):
    return {name.partition("-")[0] for name in programs}


@pytest.mark.slow
def test_a_resumed_run_loads_the_programs_that_it_has_kept(keeping, tmp_path, capsys):
    with killed_after(84):
        train(member_config(1), tmp_path / "run", make_env)
    kept = kept_programs(tmp_path / "run")
    assert names(kept) == {"explore_step", "greedy_step", "train_step"}
    assert train(member_config(1), tmp_path / "run", make_env)["finished"]
    printed = capsys.readouterr().out
    assert "resuming at env step 150" in printed
    assert "program" not in printed and "kept" not in printed
    assert kept_programs(tmp_path / "run") == kept


def test_the_program_of_the_loop_on_the_device_is_kept(keeping, tmp_path, capsys):
    short = {"length": 8, "eval_every": 60, "horizon": 2, "loop": "device"}
    config = make_tiny_config(**{"steps": 60, **short, **SHALLOW})
    train(config, tmp_path / "run", PLACES)
    kept = kept_programs(tmp_path / "run")
    assert names(kept) == {"device_loop", "greedy_step"}
    config.steps = 120
    assert train(config, tmp_path / "run", PLACES)["finished"]
    printed = capsys.readouterr().out
    assert "resuming at env step 60" in printed
    assert "program" not in printed and "kept" not in printed
    assert kept_programs(tmp_path / "run") == kept
