"""Reports of runs: what is read, computed and written, also from broken directories."""

import csv
import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from written_runs import write_run

from dreamer_jax.commands.flags import parse
from dreamer_jax.errors import UsageError
from dreamer_jax.report.results import figures, tables
from dreamer_jax.report.results.accept import judge, parse_threshold
from dreamer_jax.report.results.figures import DIAGNOSTICS, all_pictures, learning_curves
from dreamer_jax.report.results.page import format_number
from dreamer_jax.report.results.report import write_report
from dreamer_jax.report.results.runs import by_variant, read_runs
from dreamer_jax.report.results.watch import watch
from dreamer_jax.report.scores.published import atari_methods
from dreamer_jax.report.scores.score import Point
from dreamer_jax.report.video import open_loop_path, write_errors

KEYS = ["eval_return", "model_loss", "train_return"]


def read(*paths, **options):
    return read_runs(paths, KEYS, **{"ignored": ("steps", "log_every")} | options)


def rows(table, *keys):
    return [tuple(row.get(key) for key in keys) for row in table.rows]


def report(*paths, out, **options):
    return write_report(paths, out, defaults={}, ignored=(), **options)


def test_runs_are_found_at_any_depth_and_named_below_their_folder(tmp_path):
    write_run(tmp_path / "a" / "one")
    write_run(tmp_path / "b" / "two", returns=[[0.5], [0.7]], finished=False)
    (tmp_path / "b" / "two" / "replay" / "0").mkdir(parents=True)
    (tmp_path / "b" / "two" / "replay" / "config.json").write_text("{}")
    runs, problems = read(tmp_path, tmp_path / "a")
    assert [run.name for run in runs] == ["a/one", "b/two"]
    assert [[m.score for m in run.members] for run in runs] == [
        [(200, 1.0)],
        [(100, 0.5), (100, 0.7)],
    ]
    assert len(problems) == 1 and "b/two: has the same seed of catch, ours, as" in problems[0]


def test_links_in_a_circle_are_followed_once(tmp_path):
    write_run(tmp_path / "a" / "run")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a" / "run")
    assert len(read(tmp_path)[0]) == 1


def test_a_run_is_finished_running_or_stopped(tmp_path):
    finished, other = write_run(tmp_path / "a"), write_run(tmp_path / "b", finished=False)
    now = time.time()
    states = [run.state for run in read(finished, other, now=lambda: now + 60)[0]]
    assert states == ["finished", "running"]
    assert read(other, now=lambda: now + 1e6)[0][0].state == "stopped"
    # A run whose log lines are an hour apart: 180,000 steps at 50 frames per second.
    write_run(tmp_path / "slow", every=180_000, finished=False)
    assert read(tmp_path / "slow", now=lambda: now + 7200)[0][0].state == "running"


def test_variants_are_the_differences_from_most_runs_of_a_task(tmp_path):
    write_run(tmp_path / "a", kl_loss="balanced", rssm__gru_norm=True, eval_every=5, steps=7)
    write_run(tmp_path / "b", kl_loss="plain", rssm__gru_norm=True)
    write_run(tmp_path / "c", kl_loss="balanced", rssm__gru_norm=False)
    write_run(tmp_path / "d", task="reach", kl_loss="other", rssm__gru_norm=True)
    grid = [{"kl_scale": 0.1}, {"kl_scale": 1.0}]
    write_run(
        tmp_path / "e", kl_loss="balanced", rssm__gru_norm=True, returns=[[1], [2]], hypers=grid
    )
    runs, _ = read(tmp_path)
    assert [[m.label for m in run.members] for run in runs] == [
        ["ours"], ["kl_loss plain"], ["rssm.gru_norm False"], ["ours"],
        ["kl_scale 0.1", "kl_scale 1.0"],
    ]  # fmt: skip


def test_a_key_that_an_older_run_lacks_has_its_default(tmp_path):
    write_run(tmp_path / "old")
    write_run(tmp_path / "new", conv="auto")
    write_run(tmp_path / "lax", conv="lax")
    known = ("task", "steps", "log_every", "env.action_repeat")
    runs, problems = read(tmp_path, defaults={"conv": "auto"} | dict.fromkeys(known))
    assert [run.members[0].label for run in runs] == ["conv lax", "ours", "ours"]
    assert all("such runs are counted" in problem for problem in problems)


def broken_runs(folder):
    """Make a good run and broken ones; return what messages have to name."""
    write_run(folder / "good", returns=[[0.1, 0.2, 0.9], [0.3]], kl_loss="x")  # one ended earlier
    (folder / "empty").mkdir()
    half = write_run(folder / "half", kl_loss="a", finished=False)
    with open(half / "metrics.jsonl", "a") as file:
        file.write('{"member": 0, "se')
    middle = write_run(folder / "middle", kl_loss="b")
    text = (middle / "metrics.jsonl").read_text().splitlines()
    (middle / "metrics.jsonl").write_text("\n".join([text[0], text[1][:20], *text[2:], "[1]\n"]))
    other = write_run(folder / "other", kl_loss="c", future_key=3)
    no_config = write_run(folder / "no_config")
    (no_config / "config.json").unlink()
    torn = write_run(folder / "torn_config", kl_loss="d")
    (torn / "config.json").write_text('{"task": ')
    foreign = folder / "foreign"
    foreign.mkdir()
    (foreign / "metrics.jsonl").write_text('{"loss": 1}\n')
    started = folder / "started"
    started.mkdir()
    (started / "config.json").write_text('{"task": "catch"}')
    summary = write_run(folder / "summary", kl_loss="e")
    (summary / "summary.json").write_text("[")
    # Names that cannot be encoded, are too long for a file, or look like mathematics to matplotlib.
    write_run(folder / os.fsdecode(b"strange\xff"), task="\ud800" + "x" * 300)
    write_run(folder / "dollars", kl_loss="$x_{$")
    large = write_run(folder / "large", returns=[[1e308, -1e308]], kl_loss="f")
    with open(large / "metrics.jsonl", "a") as file:
        file.write("[" * 100_000 + "\n")
        counts = {"member": 0, "seed": 0, "env_step": 10**400, "frame": 1, "update": 1}
        file.write(json.dumps(counts) + "\n")
    videos = large / "videos"
    videos.mkdir()
    open_loop_path(videos, "image", 100, 0).write_text("no picture")
    (videos / "open_loop_000000100_member0.json").write_text(
        '{"context": 1, "error": {"image": ["x"]}}'
    )
    return {
        large / "metrics.jsonl": "nested too deeply.*; left out .and 1 more",
        videos / "open_loop_000000100_member0.json": "a list of numbers and nulls",
        folder / "empty": "no run in it",
        half / "metrics.jsonl": "line 5: incomplete",
        middle / "metrics.jsonl": "line 2: not JSON",
        other / "config.json": r"another version; unknown: \['future_key'\]",
        no_config / "config.json": "No such file",
        torn / "config.json": "not JSON",
        foreign / "metrics.jsonl": "a row without whole numbers for member, seed",
        started / "metrics.jsonl": "No such file",
        summary / "summary.json": "not JSON",
    }


def test_broken_runs_are_named_and_the_others_reported(tmp_path):
    expected = broken_runs(tmp_path / "runs")
    out = tmp_path / "out"
    known = dict.fromkeys(["task", "steps", "log_every", "env.action_repeat", "kl_loss"])
    _, problems = write_report(
        sorted((tmp_path / "runs").iterdir()), out, defaults=known, ignored=()
    )
    for path, words in expected.items():
        assert any(p.startswith(str(path)) and re.search(words, p) for p in problems), (path, words)
    results = json.loads((out / "results.json").read_text())
    assert results["problems"] == problems
    good = [m for m in results["members"] if m["run"] == "good"]
    assert [(m["score"], m["score_frame"]) for m in good] == [(0.9, 300), (0.3, 100)]
    named = {"half", "middle", "other", "summary", "dollars", r"strange\udcff", "large"}
    assert {m["run"] for m in results["members"]} >= named
    page = (out / "index.html").read_text()
    assert str(tmp_path / "runs" / "empty") in page and "member0.gif: no GIF" in page


def test_a_report_of_nothing_is_made(tmp_path):
    (tmp_path / "empty").mkdir()
    verdicts, problems = report(tmp_path / "empty", out=tmp_path / "out")
    assert not verdicts and "no run in it" in problems[0]
    assert "0 runs" in (tmp_path / "out" / "index.html").read_text()
    with pytest.raises(UsageError, match="missing does not exist; give work directories"):
        report(tmp_path / "missing", out=tmp_path / "out")
    with pytest.raises(UsageError, match="a path is empty"):
        report("", out=tmp_path / "out")


def atari_runs(folder):
    pong, alien = [[0.0, 14.6]], [[3678.25]]
    write_run(folder / "pong", task="atari:pong", returns=pong, kl_loss="a", env__action_repeat=4)
    write_run(
        folder / "alien", task="atari:alien", returns=alien, kl_loss="a", env__action_repeat=4
    )
    plain = {"returns": [[-3.05], [-3.05]], "kl_loss": "b", "env__action_repeat": 4}
    write_run(folder / "pong_plain", task="atari:pong", **plain)
    return read(folder)[0]


def test_the_papers_table_has_our_row_and_the_same_games(tmp_path):
    table = tables.atari_table(atari_runs(tmp_path))
    by_name = {(row["method"], row["source"]): row for row in table.rows}
    ours = by_name["ours", "ours"]
    assert ours["games"] == 2  # pong 1.0, alien (3678.25 - 228.8) / 6898.9 = 0.5
    assert (ours["gamer_median"], ours["gamer_mean"]) == pytest.approx((0.75, 0.75))
    same = by_name["DreamerV2", "published, the games of ours"]
    assert same["gamer_mean"] == pytest.approx((40.25 / 35.3 + 3738.08 / 6898.9) / 2)
    assert by_name["DreamerV2", "published"]["games"] == 55
    assert by_name["kl_loss b", "ours"]["games"] == 1


def test_tables_by_hand(tmp_path):
    runs = atari_runs(tmp_path)
    scores = tables.scores_table(runs)
    assert rows(scores, "task", "variant", "n", "mean", "low", "last_frame") == [
        ("atari:alien", "ours", 1, 3678.25, None, 400),
        ("atari:pong", "ours", 1, 14.6, None, 800),
        ("atari:pong", "kl_loss b", 2, -3.05, None, 400),
    ]
    ablations = tables.ablations_table(runs)
    assert rows(ablations, "task", "variant") == [("atari:pong", "kl_loss b")]
    assert ablations.rows[0]["difference"] == pytest.approx(-17.65)
    assert ablations.rows[0]["normalized"] == pytest.approx(-0.5)
    frames = ("first_frame", "last_frame")
    assert rows(ablations, *frames) == [(400, 800)]
    assert rows(tables.improvement_table(runs), "variant", "value", *frames) == [
        ("kl_loss b", 0.0, 400, 800)
    ]
    assert set(rows(tables.aggregates_table(runs), "variant", *frames)) == {("ours", 400, 800)}
    assert rows(tables.atari_table(runs), *frames)[0] == (400, 800)
    reached = tables.efficiency_table(runs)
    pong = [row for row in reached.rows if row["task"] == "atari:pong" and row["normalized"] == 0.5]
    assert [(r["variant"], r["reached"], r["median_frames"]) for r in pong][:2] == [
        ("ours", 1, 400), ("kl_loss b", 2, 400),
    ]  # fmt: skip
    assert pong[2]["variant"] == "DreamerV2, published mean"


def test_runs_are_compared_at_a_frame(tmp_path):
    atari_runs(tmp_path)
    runs = read(tmp_path, scored_at=400)[0]
    assert rows(tables.ablations_table(runs), "base", "first_frame", "last_frame") == [
        (0.0, 400, 400)
    ]
    assert status("report", f"--runs={tmp_path}", f"--out={tmp_path}/out", "--frame=400") == 0
    with open(tmp_path / "out" / "results.csv") as file:
        assert {row["score_frame"] for row in csv.DictReader(file)} == {"400"}


def test_members_without_an_evaluation_count_nowhere(tmp_path):
    write_run(tmp_path / "a", returns=[[0.5, 1.0]])
    write_run(tmp_path / "b", returns=[[0.1], [0.2]], kl_loss="b")
    runs = read(tmp_path)[0]
    for member in runs[1].members:
        member.curves = {}
    assert {row["variant"] for row in tables.efficiency_table(runs).rows} == {"ours"}
    scores = rows(tables.scores_table(runs), "variant", "members", "n")
    assert scores == [("ours", 1, 1), ("kl_loss b", 2, 0)]


def test_seeds_that_never_reach_a_score_are_slowest(tmp_path):
    write_run(tmp_path / "run", returns=[[0.0, 1.0], [0.5, 1.0], [0.0, 0.0]])
    row = next(r for r in tables.efficiency_table(read(tmp_path)[0]).rows if r["normalized"] == 0.9)
    assert (row["n"], row["reached"], row["median_frames"], row["max_frames"]) == (3, 2, 200, None)


def test_grids_by_hand(tmp_path):
    hypers = [{"kl_scale": k, "model_lr": lr} for k in (0.1, 1.0) for lr in (1e-3, 1e-2)]
    returns = [[0.0], [0.2], [0.4], [0.6]]
    write_run(tmp_path / "grid", returns=returns, hypers=hypers, kl_loss="a")
    write_run(tmp_path / "more", returns=[[1.0]], hypers=hypers[:1], kl_loss="a")
    write_run(tmp_path / "plain", returns=[[9.0]], hypers=hypers[:1], kl_loss="b")
    (grid,) = tables.grids(read(tmp_path)[0])
    assert (grid.x, grid.y, grid.xs, grid.ys) == ("kl_scale", "model_lr", [0.1, 1.0], [1e-3, 1e-2])
    assert grid.cells == {
        (1e-3, 0.1): [0.0, 1.0], (1e-2, 0.1): [0.2], (1e-3, 1.0): [0.4], (1e-2, 1.0): [0.6],
    }  # fmt: skip


def test_a_grid_over_runs_knows_the_value_of_the_base(tmp_path):
    for value in (8, 16, 16, 32):
        write_run(tmp_path / f"run{len(list(tmp_path.iterdir()))}", batch=value, returns=[[value]])
    (grid,) = tables.grids(read(tmp_path)[0])
    assert (grid.x, grid.y, grid.xs) == ("batch", None, [8, 16, 32])
    assert grid.cells[None, 16] == [16, 16]


def test_a_grid_beside_a_run_with_another_value_is_drawn(tmp_path):
    """The base has no setting, so its value is that of its config."""
    hypers = [{"kl_scale": k} for k in (0.1, 1.0)]
    write_run(tmp_path / "base", returns=[[5.0]], length=12, kl_scale=0.1)
    write_run(tmp_path / "grid", returns=[[1.0], [2.0]], hypers=hypers, length=8)
    (grid,) = tables.grids(read(tmp_path)[0])
    assert {grid.x, grid.y} == {"kl_scale", "length"}
    scores = {(place[grid.x == "kl_scale"], *found) for place, found in grid.cells.items()}
    assert sorted(scores) == [(0.1, 1.0), (0.1, 5.0), (1.0, 2.0)]


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("median(eval_return) >= 0.5", True),
        ("median(eval_return)>0.5", False),
        ("min(eval_return) < 0.3", True),
        ("mean(train_return) <= -0.5", True),
        ("iqm(normalized_score) >= 0.7", False),
        ("min(progress) >= 1", False),  # the last member stopped halfway
        ("max(skipped_updates) <= 0", True),
        ("max(frozen) <= 0", True),
    ],
)
def test_thresholds(tmp_path, text, met):
    write_run(tmp_path / "run", returns=[[0.2, 0.5], [0.0, 0.8], [0.1]])
    (verdict,) = judge(read(tmp_path)[0], [parse_threshold(text)])
    assert verdict.met == met and (verdict.n, verdict.task) == (3, "catch")


def test_every_variant_and_member_must_meet_a_threshold(tmp_path):
    write_run(tmp_path / "good", returns=[[1.0]], kl_loss="a")
    write_run(tmp_path / "bad", returns=[[1.0], []], kl_loss="b")
    with open(tmp_path / "bad" / "metrics.jsonl", "a") as file:
        row = {"member": 1, "seed": 1, "env_step": 9, "frame": 9, "update": 0, "kl": 1.0}
        file.write(json.dumps(row) + "\n")
    runs, _ = read(tmp_path)
    verdicts = judge(runs, [parse_threshold("mean(eval_return) >= 0")])
    assert [(v.variant, v.met, v.value) for v in verdicts] == [
        ("ours", False, None), ("kl_loss a", True, 1.0),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="Did you mean 'eval_return'"):
        judge(runs, [parse_threshold("mean(eval_retrun) >= 0")])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("eval_return >= 3", "allowed: a statistic"),
        ("mean(eval_return) == 3", "an operator"),
        ("mean(eval_return) >= many", "and a number"),
        ("mean(eval_return) >= nan", "and a number"),
        ("maen(eval_return) >= 3", "Did you mean 'mean'"),
    ],
)
def test_bad_thresholds_are_refused(text, words):
    with pytest.raises(UsageError, match=words):
        parse_threshold(text)


def status(name, *arguments):
    """Run a command in this process; return its status, 2 for an error that users can correct."""
    command = importlib.import_module(f"dreamer_jax.commands.{name}").COMMAND
    try:
        command.main(parse(name, command, arguments))
    except SystemExit as end:
        return end.code
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def test_the_status_says_whether_thresholds_are_met(tmp_path, capsys):
    write_run(tmp_path / "runs" / "a", kl_loss="a")
    write_run(tmp_path / "runs" / "b", kl_loss="b")
    runs, out = str(tmp_path / "runs"), f"--out={tmp_path / 'out'}"
    accept = "--accept=min(eval_return) >= 1"
    assert status("report", f"--runs={runs}/a", f"{runs}/b", out, accept) == 0
    assert "met: min(eval_return) >= 1: 1 (catch, kl_loss b, n = 1)" in capsys.readouterr().out
    assert status("report", "--runs", runs, out, accept, "--accept=min(eval_return) >= 2") == 1
    assert "NOT MET" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert status("report", "--runs", runs, f"{tmp_path}/empty", out, accept) == 1
    assert "no run in it" in capsys.readouterr().err
    assert status("report", "--runs", runs, out, "--accept=x") == 2
    assert status("report", "--runs", f"{tmp_path}/none", out) == 2


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a report of a run with two members."""
    folder = tmp_path_factory.mktemp("written")
    settings = [{"kl_scale": 1}, {"kl_scale": 2}]
    write_run(folder / "a & <b>", returns=[[0.2, 0.4], [0.6, 1.0]], hypers=settings)
    report(folder, out=folder / "out")
    return folder / "out"


def test_result_files_have_their_documented_keys(written):
    with open(written / "results.csv") as file:
        first, second = csv.DictReader(file)
    assert (first["variant"], first["score"], first["score_frame"]) == ("kl_scale 1", "0.4", "200")
    assert float(second["normalized_score"]) == 1.0 and second["frozen"] == "False"
    with open(written / "evaluations.csv") as file:
        rows = [(row["seed"], row["frame"], row["eval_return"]) for row in csv.DictReader(file)]
    assert rows == [
        ("0", "100", "0.2"),
        ("0", "200", "0.4"),
        ("1", "100", "0.6"),
        ("1", "200", "1.0"),
    ]
    results = json.loads((written / "results.json").read_text())
    assert results["schema"] == 1
    member = results["members"][1]
    assert member["setting"] == {"kl_scale": 2}
    assert member["evaluations"] == [[100, 0.6], [200, 1.0]]
    marl = json.loads((written / "marl_eval.json").read_text())
    seed = marl["embedded"]["catch"]["kl_scale 1"]["seed_0"]
    assert seed["step_1"] == {"step_count": 200, "eval_return": [0.4]}
    assert seed["absolute_metrics"] == {"eval_return": [0.4]}


def test_the_page_needs_nothing_else_and_describes_its_images(written):
    page = (written / "index.html").read_text()
    assert not re.search(r"https?://|<link[^>]*stylesheet|src=\"(?!data:)", page)
    images = re.findall(r"<img[^>]*>", page)
    assert images and all(re.search(r'alt="[^"]{20,}"', image) for image in images)
    assert "a &amp; &lt;b&gt;" in page and "a & <b>" not in page
    assert page.count('<th scope="col"') == page.count("</button></th>") > 20


def test_curves_state_their_seeds_bins_and_smoothing(tmp_path):
    write_run(tmp_path / "few", returns=[[0.0, 0.5]] * 4, task="reach")
    runs, _ = read(tmp_path)
    picture = learning_curves("reach", by_variant(runs)["reach"], smoothing=(10, 3))
    assert "mean of 10 bins, running mean of 3 points" in picture.text
    assert "4 seeds" in picture.text and picture.png[:4] == b"\x89PNG"


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_long_legends_say_what_they_leave_out_and_keep_what_is_published(tmp_path, monkeypatch):
    hypers = [{"kl_scale": k} for k in range(32)]
    write_run(tmp_path / "run", task="atari:pong", returns=[[1.0, 2.0]] * 32, hypers=hypers)
    drawn = []
    monkeypatch.setattr(figures, "_picture", lambda figure, *_: drawn.append(figure))
    learning_curves("atari:pong", by_variant(read(tmp_path)[0])["atari:pong"])
    names = legend_of(drawn[0])
    published = [name for name in names if "kl_scale" not in name and "more" not in name]
    assert len(names) <= 13 and any("DreamerV2" in name for name in published)
    kept = [name for name in names if "kl_scale" in name]
    assert f"... {32 - len(kept)} more ..." in names
    assert "kl_scale 0," in kept[0] and "kl_scale 31," in kept[-1]


def test_differences_have_room_for_long_names(tmp_path, monkeypatch):
    runs = atari_runs(tmp_path)
    drawn = []
    monkeypatch.setattr(figures, "_picture", lambda figure, *_: drawn.append(figure))
    for member in (member for run in runs for member in run.members):
        member.setting = {name: 1e-4 for name in ("actor_lr", "critic_lr", "rssm.deter")}
    figures.differences(runs, "atari")
    (figure,) = drawn
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().width > 0.3 * figure.bbox.width


def test_curves_over_tasks_that_have_no_frame_in_common_are_not_drawn(tmp_path):
    runs = atari_runs(tmp_path)
    assert figures.aggregate_curves(runs, "atari") is not None
    (alien,) = (m for run in runs for m in run.members if m.task == "atari:alien")
    alien.curves["eval_return"] = [Point(5_000, 1.0), Point(6_000, 1.0)]
    assert figures.aggregate_curves(runs, "atari") is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [(999.6, "1,000"), (-999.7, "-1,000"), (999.4, "999"), (99.96, "100"), (0.12345, "0.123")],
)
def test_numbers_are_shown_without_exponents(value, shown):
    assert format_number(value) == shown


def test_open_loop_errors_are_drawn_and_broken_ones_named(tmp_path):
    runs = write_run(tmp_path / "a", returns=[[0.1], [0.2]]), write_run(tmp_path / "b", kl_loss="x")
    for run in runs:
        (run / "videos").mkdir()
    for step, values in ((10, [9.0, 9.0]), (20, [0.5, np.nan])):
        error = {"image": np.array(values), "reward": np.ones(2)}
        write_errors(runs[0] / "videos", step, 1, error, context=1)
    (runs[1] / "videos" / "open_loop_000000010_member0.json").write_text("{}")
    _, problems = report(tmp_path, out=tmp_path / "out")
    assert len(problems) == 1 and "b/videos/open_loop_000000010_member0.json: no" in problems[0]
    assert (tmp_path / "out" / "figures" / "catch_horizon.png").exists()
    page = (tmp_path / "out" / "index.html").read_text()
    assert "image, ours: finally 0.5; reward, ours: finally 1." in page


def test_plot_writes_a_figure_per_task(tmp_path, capsys):
    write_run(tmp_path / "runs" / "a", returns=[[0.1, 0.2, 0.3]])
    runs, out = f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"
    assert status("plot", runs, out, "--y=model_loss", "--x=update", "--bins=2") == 0
    assert os.listdir(tmp_path / "out") == ["catch_model_loss.png"]
    assert status("plot", runs, out, "--y=modl_loss") == 2
    assert "Did you mean 'model_loss'" in capsys.readouterr().err


def test_watch_shows_members_of_runs_that_another_process_writes(tmp_path, capsys):
    write_run(tmp_path / "a", returns=[[0.1], [0.25]], finished=False, steps=50_100)
    (tmp_path / "a" / "resumes.log").write_text("2026-01-01 resumed\n2026-01-02 resumed\n")
    torn = tmp_path / "a" / "metrics.jsonl"
    torn.write_text(torn.read_text() + '{"mem')
    watch([tmp_path], None, Console(width=100))
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.split()[:2] == ["a", "1"])
    # 50,000 steps at 50 per second
    assert line.split() == "a 1 1 running 0% -0.75 0.25 50 00:16:40 2 resumes ours".split()
    assert "incomplete" in shown.replace("\n", "")


@pytest.mark.slow
def test_all_figures_of_several_tasks_are_drawn(tmp_path):
    runs = atari_runs(tmp_path)
    names = [picture.name for picture in all_pictures(runs)]
    assert names == [
        "atari_alien_eval_return", "atari_pong_eval_return", "tasks", "atari_aggregate",
        "atari_profile", "atari_difference", "atari_alien_diagnostics", "atari_pong_diagnostics",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_thousand_runs_take_less_than_a_minute_and_two_gibibytes(tmp_path):
    """Of all games, with all metrics that are drawn."""
    games = [*atari_methods()["DreamerV2"]]
    for index in range(1000):
        curve = [float(index + t) for t in range(50)]
        write_run(
            tmp_path / "runs" / f"{index // 100}" / f"{index:04}",
            task=games[index % len(games)],
            returns=[curve, curve],
            logged=DIAGNOSTICS,
        )
    # The kernel's `VmHWM` is the peak of this program; `ru_maxrss` begins with that of its parent.
    code = (
        "import re, sys, time; from dreamer_jax.commands.main import main\n"
        "for runs in sys.argv[1:3]:\n"
        "  begun = time.process_time(); main(['report', '--runs', runs, '--out', sys.argv[3]])\n"
        "  print('used', time.process_time() - begun)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
    )
    arguments = [tmp_path / "runs" / "0", tmp_path / "runs", tmp_path / "out"]
    # The time of one core. The ratio does not depend on the machine and what else it is doing.
    environ = os.environ | dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    hundred, thousand = map(float, re.findall(r"used (.*)", done.stdout))
    assert thousand < 60
    assert thousand < 3 * hundred  # most of the time is that of figures, which are as many
    assert int(done.stdout.split()[-1]) < 2 * 2**20
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["members"]) == 2000
    assert len(list((tmp_path / "out" / "figures").glob("*_diagnostics.png"))) == 6
    assert "Of 6 of 55 tasks" in (tmp_path / "out" / "index.html").read_text()


def test_shipped_evaluations_can_be_drawn_again(tmp_path):
    results = Path(__file__).parents[2] / "experiments" / "results"
    to = tmp_path / "shipped"
    command = [sys.executable, str(results / "redraw.py"), "--runs=minigrid_*,minatar_b*"]
    command.append(f"--to={to}")
    subprocess.run(command, check=True)
    runs, problems = read(to)
    assert not problems
    assert [(run.task, [m.label for m in run.members]) for run in runs] == [
        ("gymnax:Breakout-MinAtar", ["ours", "ours"]),
        ("gymnax:Breakout-MinAtar", ["variant env.grids None, vector.units 128"] * 2),
        ("minigrid:MiniGrid-DoorKey-5x5-v0", ["ours", "ours"]),
        ("minigrid:MiniGrid-Empty-5x5-v0", ["ours", "ours"]),
    ]
    with open(results / "minigrid_eval.csv", newline="") as file:
        last = [row for row in csv.DictReader(file) if row["frame"] == "50000"]
    door_key = [float(row["eval_return"]) for row in last if "DoorKey" in row["task"]]
    assert [m.score for m in runs[2].members] == [(50_000, value) for value in door_key]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and "--to must be a new folder" in again.stderr
