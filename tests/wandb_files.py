"""Read back what W&B has written to its .wandb files."""

import json
import struct
from pathlib import Path

BLOCK = 32768  # bytes; no record fragment crosses a block's end
FULL, LAST = 1, 4  # fragment types that end a record


def read_histories(directory):
    """Return what all runs below a directory have written, those of one id in starting order.

    The files of a finished run are complete when the service that writes them has ended. That of
    this process is ended here; that of another process ends with it.

    Returns:
        By run id: "name", "group", "job_type", "tags", "config", "summary" (the last values),
        "history" (a dict per row, with `_step`), "stats" (number of samples of the machine's load)
        and "files" (number of .wandb files).
    """
    import wandb
    from wandb.proto import wandb_internal_pb2 as pb

    wandb.teardown()
    files = []
    for path in Path(directory).rglob("run-*.wandb"):
        records = [pb.Record.FromString(data) for data in read_records(path)]
        started = [r.run.start_time.ToNanoseconds() for r in records if r.HasField("run")]
        files.append((min(started, default=0), str(path), records))
    runs = {}
    for _, path, records in sorted(files, key=lambda file: file[:2]):
        run_id = Path(path).stem.removeprefix("run-")
        empty = {"config": {}, "summary": {}, "history": [], "stats": 0, "files": 0}
        run = runs.setdefault(run_id, empty)
        run["files"] += 1
        for record in records:
            _add(run, record)
    return runs


def read_records(path):
    """Yield the bytes of each complete record of a file, a LevelDB log with its own header."""
    data = Path(path).read_bytes()
    assert data[:4] == b":W&B", data[:4]
    at, record = 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        at += 7 + length
        if at > len(data) or not kind:
            return
        record += data[at - length : at]
        if kind in (FULL, LAST):
            yield record
            record = b""


def _add(run, record):
    kind = record.WhichOneof("record_type")
    if kind == "run":
        message = record.run
        run |= {"name": message.display_name, "group": message.run_group}
        run |= {"job_type": message.job_type, "tags": list(message.tags)}
        run |= {"sweep": message.sweep_id}
        run["config"] |= _items(message.config.update)
    elif kind == "history":
        row = _items(record.history.item)
        run["history"].append({k: v for k, v in row.items() if k not in ("_timestamp", "_runtime")})
    elif kind == "summary":
        run["summary"] |= _items(record.summary.update)
    elif kind == "stats":
        run["stats"] += 1


def _items(items):
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
