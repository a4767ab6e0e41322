"""The command line as a user meets it: real processes, their output and exit status."""

import json
import operator
import subprocess
import sys

import pytest
from commands import CATCH, ROOT, command, forked_command

from dreamer_jax.commands import train
from dreamer_jax.commands.flags import load_config, parse
from dreamer_jax.commands.main import COMMANDS
from dreamer_jax.configs import get_config
from dreamer_jax.errors import UsageError


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("trian", [], "command is 'trian'; choose one of: benchmark, evaluate, members, "),
        ("train", [], "required: --config"),
        ("train", ["--config=cach:debug"], "Did you mean 'catch'"),
        ("train", [CATCH, "--wrkdir=x"], "unknown flag --wrkdir. Did you mean '--workdir'?"),
        ("train", [CATCH, "runs/x"], "unexpected argument 'runs/x'"),
        ("train", [CATCH, "--config.horizn=3"], "config.horizn does not exist. Did you mean"),
        ("train", [CATCH, "--config.horizon=abc"], "horizon=abc"),
        ("train", [CATCH, "--config.horizon=1", "--dry_run"], "config.horizon is 1; allowed"),
        ("train", [CATCH, "--config.task=atari:pnog", "--dry_run"], "Did you mean 'pong'"),
        ("train", ["--config=configs/atari.py"], "needs a game"),
        ("train", ["--config=ablations:pong,no_layernorm"], "mean 'no_layer_norm'"),
        ("train", [CATCH, "--config.behavior=planet", "--dry_run"], "which plans continuous act"),
        ("train", ["--config=configs/none.py", "--dry_run"], "there is no file configs/none.py"),
        ("train", [CATCH], "--workdir is missing"),
        ("evaluate", ["--workdir=/nonexistent"], "no run in /nonexistent"),
        ("evaluate", ["--workdir=.", "--episodes=0"], "'0' was given; allowed: a whole number"),
        ("members", ["--workdir=.", "--to=x"], "--to and one of --extract"),
        ("members", ["--workdir=.", "--add=1,x", "--to=x"], "'x' was given; allowed"),
        ("report", ["--runs=/nonexistent"], "/nonexistent does not exist; give work directories"),
        ("report", ["--runs=.", "--accept=best > 1"], "--accept='best > 1' was given; allowed"),
        ("plot", ["--runs", ".", "--smooth=x"], "'x' was given; allowed: a whole number"),
        ("watch", ["--runs=a", "--evry=3"], "unknown flag --evry. Did you mean '--every'?"),
        ("benchmark", [CATCH, "--conv=matmull"], "Did you mean 'matmul'"),
        ("benchmark", [CATCH, "--members=1,two"], "--members: 'two' was given; allowed"),
    ],
)
def test_mistakes_are_one_message_and_status_2(tmp_path, name, arguments, message):
    status, out, err = forked_command(name, *arguments, cache=tmp_path)
    assert status == 2, err
    assert message in err
    assert "Traceback" not in err and not out
    assert len(err.strip().splitlines()) <= 4, err


@pytest.mark.parametrize("arguments", [[], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_needs_no_jax(arguments):
    code = "import sys\nfrom dreamer_jax.commands.main import main\n"
    code += "try: main()\nfinally: assert not {'jax', 'gymnasium'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: dreamer-jax" in done.stdout


def test_module_runs_the_command():
    done = subprocess.run([sys.executable, "-m", "dreamer_jax"], capture_output=True, text=True)
    assert done.returncode == 0 and "dreamer-jax train" in done.stdout


def parse_config(*arguments):
    return parse("dreamer-jax train", train.COMMAND, arguments).config


def test_shipped_configs_need_no_path(tmp_path, monkeypatch):
    path = ROOT / "configs" / "catch.py"
    monkeypatch.chdir(tmp_path)
    assert parse_config("--config=catch:debug") == get_config("catch", "debug")
    assert parse_config(f"--config={path}:debug") == get_config("catch", "debug")


def test_overrides_have_the_types_of_their_keys():
    config = parse_config(
        "--config", "catch", "--config.seeds=3,5", "--config.members.kl_scale=(0.1, 0.3)",
        "--config.replay.slack=7", "--config.replay.slack=None", "--config.horizon", "4",
        "--config.actor_entropy_final=0.5", "--noconfig.discount_head.enabled", "--config.norm",
        "--config.grad_heads.reward=false", "--config.model_lr=2e-3", "--config.steps=1e6",
    )  # fmt: skip
    assert (config.seeds, config.members.kl_scale) == ((3, 5), (0.1, 0.3))
    assert config.replay.slack is None and config.is_locked
    assert changed_values(config) == [4, 0.5, False, True, False, 2e-3, 1_000_000]
    assert not any(map(operator.eq, changed_values(config), changed_values(get_config("catch"))))


def changed_values(config):
    heads = [config.discount_head.enabled, config.norm, config.grad_heads.reward]
    return [config.horizon, config.actor_entropy_final, *heads, config.model_lr, config.steps]


def test_files_of_the_users_own(tmp_path):
    file = tmp_path / "mine.py"
    shipped = "from dreamer_jax.configs import get_config as shipped\n"
    file.write_text(f"{shipped}def get_config(): return shipped('catch')")
    assert load_config(str(file)) == get_config("catch")
    file.write_text(f"{shipped}def get_config(arg): return shipped('reach', arg)")
    assert load_config(f"{file}:debug") == get_config("reach", "debug")
    file.write_text("def get_config(): raise KeyError('a mistake of its author')")
    with pytest.raises(KeyError, match="of its author"):
        load_config(str(file))
    file.write_text("x = 1")
    with pytest.raises(UsageError, match="defines no function get_config"):
        load_config(str(file))
    file.write_text("def get_config(): return {}")
    with pytest.raises(UsageError, match="returned {}; allowed: a ConfigDict"):
        parse_config(f"--config={file}")


def test_dry_run_prints_one_json_object(tmp_path):
    status, out, err = command("train", CATCH, "--config.seeds=3,5", "--dry_run", cache=tmp_path)
    assert status == 0, err
    plan = json.loads(out)
    assert plan["seeds"] == [3, 5]
    assert plan["parameters"]["world_model"] > 0


@pytest.mark.slow
def test_train_then_evaluate(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    small = ["--config.steps=150", "--config.seeds=1", "--config.replay.storage=memory"]
    status, out, err = command("train", CATCH, workdir, *small, cache=tmp_path)
    assert status == 0, err
    assert '"env_step": 150' in out
    assert "replay grows to" in out
    status, out, err = command("evaluate", workdir, "--episodes=2", cache=tmp_path)
    assert status == 0, err
    assert json.loads(out)["members"][0]["eval_episodes"] == 2


@pytest.mark.slow
def test_benchmark_prints_a_table_and_writes_its_rows(tmp_path):
    file = tmp_path / "rows.json"
    options = ["--members=1,2", "--synthetic", "--repeats=1", f"--json={file}"]
    status, out, err = command("benchmark", CATCH, *options, cache=tmp_path)
    assert status == 0, err
    assert "member updates/s" in out
    assert [row["members"] for row in json.loads(file.read_text())] == [1, 2]
