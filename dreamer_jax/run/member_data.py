"""What a run keeps of its members outside of arrays: selected by member, joined across runs.

Every function takes sources: pairs of one run's data and the numbers of the members wanted of it.
In the result they are members 0, 1, ... in the order given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from dreamer_jax.config import sweep


def gather_config(sources: Sequence[tuple[ConfigDict, Sequence[int]]]) -> ConfigDict:
    """The first run's config with the members that are gathered."""
    return sweep.with_members(sources[0][0], sweep.joined(sources))


def gather_host(sources: Sequence[tuple[Mapping, Sequence[int]]], num_envs: int) -> dict:
    """Host data of a checkpoint, as the trainer saves it.

    Args:
        sources: host data of the same env step and update, nothing due in any but a single one,
            and a batch drawn in all or none; num_envs: E.

    Returns:
        Host data whose `records` say that the metrics file is empty and no row waits.
    """
    first = sources[0][0]

    def per_member(*path: str) -> list:
        return [_at(host, path)[member] for host, members in sources for member in members]

    def per_row(*path: str) -> list:
        grids = [(_at(host, path), members) for host, members in sources]
        return [
            rows[member * num_envs + env]
            for rows, members in grids
            for member in members
            for env in range(num_envs)
        ]

    drawn = first["prefetch"] is not None
    replay = {name: per_member("replay", name) for name in ("written", "open_start", "generators")}
    prefetch = {name: per_member("prefetch", name) for name in ("env", "start") if drawn}
    driver = {name: per_row("driver", name) for name in ("is_first", "returns", "lengths")}
    records = {name: per_member("records", name) for name in ("frozen", "faults")}
    return {
        **{name: first[name] for name in ("env_step", "update", "due")},
        "summary": _gather_summary([(host["summary"], members) for host, members in sources]),
        "replay": replay,
        "prefetch": prefetch or None,
        "driver": driver | {"stats": per_member("driver", "stats")},
        "rows": per_row("rows"),
        "records": records | {"sums": _gather_sums(sources), "offset": 0, "pending": []},
    }


def gather_rows(sources: Sequence[tuple[Sequence[dict], Sequence[int]]]) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl as one run of all members writes them.

    Returns:
        By env step, at each the log rows of all members, then their evaluations.
    """
    numbers = _numbers([members for _, members in sources])
    rows = [
        row | {"member": numbers[source, row["member"]]}
        for source, (rows, _) in enumerate(sources)
        for row in rows
        if (source, row["member"]) in numbers
    ]
    return sorted(rows, key=lambda r: (r["env_step"], "eval_return" in r, r["member"]))


def _numbers(members: Sequence[Sequence[int]]) -> dict[tuple[int, int], int]:
    """(source, member there) -> member here."""
    old = [(source, member) for source, wanted in enumerate(members) for member in wanted]
    return {pair: number for number, pair in enumerate(old)}


def _gather_summary(sources: Sequence[tuple[list[dict] | None, Sequence[int]]]) -> list | None:
    """Records of the final evaluation; None where a source has none."""
    if any(records is None for records, _ in sources):
        return None
    gathered = [records[member] for records, members in sources for member in members]
    # Without an evaluation the records are empty.
    return [record and record | {"member": number} for number, record in enumerate(gathered)]


def _gather_sums(sources: Sequence[tuple[Mapping, Sequence[int]]]) -> dict[str, list] | None:
    """Sums since the last log line. Where that has just been written, they are zero."""
    sums = [host["records"]["sums"] for host, _ in sources]
    names = next((list(entry) for entry in sums if entry is not None), None)
    if names is None:
        return None
    return {
        name: [
            0.0 if entry is None else entry[name][member]
            for entry, (_, members) in zip(sums, sources, strict=True)
            for member in members
        ]
        for name in names
    }


def _at(data: Mapping, path: Sequence[str]) -> Any:
    for name in path:
        data = data[name]
    return data
