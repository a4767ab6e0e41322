"""metrics.jsonl under good and failing disks, and episode statistics by hand."""

import errno
import json
import math
import os
import resource
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from dreamer_jax.report.metrics_log import MetricsLog, encode_row, read_metrics
from dreamer_jax.run.driver import EpisodeStats


def row(step, **scalars):
    return dict(member=0, seed=7, env_step=step, frame=4 * step, update=step // 2) | scalars


@contextmanager
def full_disk(path, room):
    """The file system takes `room` more bytes for any file as long as `path` is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def open_log(path, warnings):
    """Opens the log as often as a test resumes; closes what it opened."""
    with ExitStack() as stack:

        def open_one(**keywords):
            log = MetricsLog(path, warn=warnings.append, **keywords)
            stack.callback(log.close)
            return log

        yield open_one


@pytest.fixture
def log(open_log):
    return open_log()


def test_encode_row_by_hand():
    line = encode_row(
        dict(kl=np.float32(0.5), lost=math.nan, top=-math.inf, note="a\nb", ok=np.True_)
        | dict(frame=np.int64(40), update=2, member=0, env_step=10, seed=np.array(3), none=None)
    )
    assert line == (
        b'{"member": 0, "seed": 3, "env_step": 10, "frame": 40, "update": 2, "kl": 0.5, '
        b'"lost": null, "top": null, "note": "a\\nb", "ok": true, "none": null}\n'
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(env_step=1.5), "'env_step' must be a whole number"),
        (dict(seed=True), "'seed' must be a whole number"),
        (dict(seed=None), "'seed' must be a whole number"),
        (dict(kl=np.zeros((2, 1))), r"'kl' must be a scalar.*ndarray of shape \(2, 1\)"),
        (dict(kl=[1.0]), "'kl' must be a scalar.*list"),
    ],
)
def test_bad_row_is_named_and_nothing_is_taken(log, path, change, words):
    with pytest.raises(ValueError, match=words):
        log.write([row(1), row(2) | change])
    log.close()
    assert path.read_bytes() == b""


def test_missing_keys_are_listed():
    with pytest.raises(ValueError, match=r"lacks \['seed', 'update'\]"):
        encode_row(dict(member=0, env_step=1, frame=4))


def test_rows_are_in_the_file_when_write_returns(log, path):
    log.write([row(1, kl=0.25), row(2)])
    assert read_metrics(path) == [row(1, kl=0.25), row(2)]
    assert log.offset == os.path.getsize(path) and log.flush() and log.pending == []
    log.write(row(step) for step in [3])
    assert [r["env_step"] for r in read_metrics(path)] == [1, 2, 3]
    log.close()
    log.close()


@pytest.mark.parametrize("room", [0, 1, 60, 100, 150])
def test_full_disk_cuts_the_partial_line_and_catches_up(log, path, warnings, room):
    log.write([row(0)])
    with full_disk(path, room):
        log.write([row(1), row(2)])
        log.write([row(3)])
        assert not log.flush()
        content = path.read_bytes()
        assert content.endswith(b"\n") and log.offset == len(content)
        on_disk = [json.loads(line)["env_step"] for line in content.splitlines()]
        waiting = [json.loads(line)["env_step"] for line in log.pending]
        assert on_disk + waiting == [0, 1, 2, 3] and waiting
    assert len(warnings) == 1
    for words in (str(path), os.strerror(errno.EFBIG), "lines are pending"):
        assert words in warnings[0]
    log.write([row(4)])
    assert [r["env_step"] for r in read_metrics(path)] == [0, 1, 2, 3, 4]
    assert len(warnings) == 2 and "works again" in warnings[1]
    log.close()


def test_warning_counts_pending_lines(log, path, warnings):
    with full_disk(path, 0):
        log.write([row(1), row(2), row(3)])
    assert "3 lines are pending" in warnings[0]
    log.close()
    assert len(read_metrics(path)) == 3


class NoTruncate:
    """A file whose next write is half done and fails, as does every truncate until `heal`."""

    def __init__(self, file):
        self.file, self.broken = file, True

    def heal(self):
        self.broken = False

    def write(self, data):
        if not self.broken:
            return self.file.write(data)
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.EIO, "Input/output error")

    def truncate(self, size):
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        return self.file.truncate(size)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_partial_line_that_could_not_be_cut_is_cut_before_the_next_write(log, path):
    log.write([row(1)])
    log._file = NoTruncate(log._file)
    log.write([row(2)])
    assert not path.read_bytes().endswith(b"\n")
    assert len(read_metrics(path)) == 1
    log._file.heal()
    log.write([row(3)])
    assert [r["env_step"] for r in read_metrics(path)] == [1, 2, 3]


def test_pending_is_bounded_and_the_oldest_are_dropped(path, open_log, warnings):
    size = len(encode_row(row(101)))
    log = open_log(pending_limit=2 * size)
    with full_disk(path, 0):
        for step in range(101, 106):
            log.write([row(step)])
    assert [json.loads(line)["env_step"] for line in log.pending] == [104, 105]
    assert len(warnings) == 2 and "the oldest are dropped" in warnings[1]
    log.close()
    assert [r["env_step"] for r in read_metrics(path)] == [104, 105]
    assert "2 lines caught up, 3 lines were lost" in warnings[2]


def test_close_says_how_many_lines_are_lost(path, open_log):
    size = len(encode_row(row(101)))
    log = open_log(pending_limit=3 * size)
    with full_disk(path, 10):
        log.write(row(step) for step in range(101, 106))
        with pytest.raises(OSError, match="5 lines are lost") as caught:
            log.close()
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert path.read_bytes() == b""


def test_resume_cuts_what_lies_behind_the_checkpoint(log, open_log, path):
    log.write([row(1), row(2)])
    offset, pending = log.offset, log.pending
    log.write([row(3)])
    log.close()
    resumed = open_log()
    resumed.cut(offset, pending)
    resumed.write([row(30)])
    resumed.close()
    assert [r["env_step"] for r in read_metrics(path)] == [1, 2, 30]


def test_resume_keeps_rows_that_were_pending_at_the_checkpoint(log, open_log, path):
    log.write([row(1)])
    with full_disk(path, 20):
        log.write([row(2)])
        assert read_metrics(path) == [row(1)]
    state = json.loads(json.dumps([log.offset, log.pending]))
    log.write([row(3)])
    log.close()
    resumed = open_log()
    resumed.cut(*state)
    assert resumed.flush()
    assert [r["env_step"] for r in read_metrics(path)] == [1, 2]


def test_cut_refuses_a_changed_file(log, path):
    log.write([row(1), row(2)])
    with pytest.raises(ValueError, match=f"byte 9999 of {log.offset} is not the end of a line"):
        log.cut(9999)
    with pytest.raises(ValueError, match="byte 5 of .* is not the end of a line"):
        log.cut(5)
    with pytest.raises(ValueError, match="byte -1"):
        log.cut(-1)
    assert len(read_metrics(path)) == 2
    log.cut(0)
    assert read_metrics(path) == []


@pytest.mark.parametrize("torn", [b'{"member": 0, "se', b"{", b"x" * 200_000])
def test_torn_last_line_is_skipped_by_the_reader_and_cut_at_open(log, open_log, path, torn):
    log.write([row(1)])
    log.close()
    with open(path, "ab") as file:
        file.write(torn)
    assert read_metrics(path) == [row(1)]
    again = open_log()
    assert again.offset == os.path.getsize(path)
    again.write([row(2)])
    assert read_metrics(path) == [row(1), row(2)]


def test_file_of_one_torn_line_becomes_empty(open_log, path):
    path.write_bytes(b'{"member')
    assert open_log().offset == 0 and path.read_bytes() == b""


@pytest.mark.parametrize("bad", [b"{torn\n", b"[1]\n", b"\n"])
def test_reader_names_a_bad_line_that_is_not_the_last(path, bad):
    path.write_bytes(encode_row(row(1)) + bad + encode_row(row(2)))
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_episode_stats_by_hand():
    stats = EpisodeStats(2)
    stats.add(1, np.float32(3.0), np.int32(10))
    stats.add(1, -1.0, 20)
    stats.add(1, 4.0, 30)
    assert stats.pop() == [
        {},
        dict(
            train_return=2.0,
            train_return_min=-1.0,
            train_return_max=4.0,
            train_length=20.0,
            train_episodes=3,
        ),
    ]
    assert stats.pop() == [{}, {}]


def test_episode_stats_survive_a_checkpoint():
    stats, resumed = EpisodeStats(2), EpisodeStats(2)
    stats.add(0, 0.1, 5)
    stats.add(0, 0.2, 6)
    resumed.restore(json.loads(json.dumps(stats.state())))
    for each in (stats, resumed):
        each.add(0, 0.3, 7)
        each.add(1, 1.0, 8)
    assert stats.pop() == resumed.pop()
