"""The members of a config: every seed with every combination of the lists in `config.members`.

Order: the seeds vary fastest, then the lists in the reverse order of the fields of `types.Hypers`.
Members of one seed have all their random streams in common (initial weights, environments, draws
from the replay, noise), so that they differ by their hyperparameters alone.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dreamer_jax.metrics import HYPER
from dreamer_jax.types import Hypers

NAMES = tuple(Hypers.__dataclass_fields__)
# What the world model alone is trained with; the others are of actors and critics.
OF_WORLD_MODEL = ("model_lr", "kl_scale", "kl_balance", "free_nats", "discount")
ANNEALED = ("actor_entropy", "actor_grad_mix")


class Member(NamedTuple):
    """What a member has of its own in the config."""

    seed: int
    values: dict[str, Any]  # by name, of the hyperparameters that `config.members` lists

    @property
    def setting(self) -> str:
        """Its values in words; empty if it has none."""
        return ", ".join(f"{name} {value}" for name, value in self.values.items())

    def __str__(self) -> str:
        return f"seed {self.seed}" + (f", {self.setting}" if self.values else "")


def listed(config: ConfigDict) -> dict[str, list]:
    """The lists of `config.members` that are given, in the order of `NAMES`."""
    lists = {name: config.members.get(name) for name in NAMES}
    return {name: list(values) for name, values in lists.items() if values is not None}


def given_seeds(config: ConfigDict) -> list[int]:
    """`config.seeds` as a list."""
    return list(range(config.seeds)) if isinstance(config.seeds, int) else list(config.seeds)


def members(config: ConfigDict) -> list[Member]:
    """All members of a valid config, in order."""
    lists, seeds = listed(config), given_seeds(config)
    if config.members.get("paired"):
        rows = zip(seeds, *lists.values(), strict=True)
    else:
        combinations = itertools.product(*lists.values())
        rows = [(seed, *values) for values in combinations for seed in seeds]
    return [Member(seed, dict(zip(lists, values, strict=True))) for seed, *values in rows]


def with_members(config: ConfigDict, wanted: Sequence[Member]) -> ConfigDict:
    """The config of a run of the same settings with exactly these members.

    Args:
        wanted: all with values for the same names.

    Returns:
        A config that crosses lists with seeds if that gives `wanted`, else one that pairs them.
    """
    changed = config.copy_and_resolve_references()
    names = list(wanted[0].values) if wanted else []
    columns = {name: tuple(member.values[name] for member in wanted) for name in names}
    seeds = tuple(member.seed for member in wanted)
    _set(changed, _distinct(seeds), {n: _distinct(column) for n, column in columns.items()})
    if members(changed) != list(wanted):
        _set(changed, seeds, columns, paired=True)
    changed.env.workers = min(changed.env.workers, len(wanted) * changed.env.num_envs)
    return changed


def with_seeds(config: ConfigDict, seeds: Sequence[int]) -> ConfigDict:
    """The config of a run in which these seeds have every setting that members have in this one."""
    settings = []
    for member in members(config):
        if member.values not in settings:
            settings.append(member.values)
    return with_members(config, [Member(seed, v) for v in settings for seed in seeds])


def joined(sources: Sequence[tuple[ConfigDict, Sequence[int]]]) -> list[Member]:
    """Members of several configs, each with values for all names that any of them lists.

    Args:
        sources: a config and the numbers of the members wanted of it.
    """
    names = [n for n in NAMES if any(n in listed(config) for config, _ in sources)]
    return [
        Member(member.seed, {name: member.values.get(name, config[name]) for name in names})
        for config, wanted in sources
        for member in [members(config)[number] for number in wanted]
    ]


def without_members(config: ConfigDict, names: Sequence[str]) -> ConfigDict:
    """The config without what depends on the member: seeds, lists, and the values of `names`."""
    changed = config.copy_and_resolve_references()
    _set(changed, 1, {})
    with changed.ignore_type():
        for name in names:
            changed[name] = None
    return changed


def member_seeds(config: ConfigDict) -> list[int]:
    """The seed of every member."""
    return [member.seed for member in members(config)]


def member_hypers(config: ConfigDict) -> list[Hypers]:
    """The hyperparameters of every member."""
    shared = {name: config[name] for name in NAMES}
    return [_hypers(shared | member.values) for member in members(config)]


def member_configs(config: ConfigDict) -> list[dict[str, Any]]:
    """The config of every member as nested dicts: its own values and `seed`, not the others'."""
    shared = {k: v for k, v in config.to_dict().items() if k not in ("seeds", "members")}
    return [shared | member.values | {"seed": member.seed} for member in members(config)]


def member_labels(config: ConfigDict) -> list[dict[str, Any]]:
    """What every row of metrics.jsonl says of its member's values, see metrics.HYPER."""
    return [{HYPER + n: value for n, value in m.values.items()} for m in members(config)]


def grid_errors(config: ConfigDict) -> Iterator[str]:
    """What is wrong with seeds and lists that are allowed each by itself."""
    lists = {f"members.{name}": values for name, values in listed(config).items()}
    seeds = given_seeds(config)
    if not config.members.get("paired"):
        for name, values in {"seeds": seeds, **lists}.items():
            yield from _repetition(name, values, values)
        return
    uneven = [name for name, values in lists.items() if len(values) != len(seeds)]
    for name in uneven:
        yield (
            f"config.{name} has {len(lists[name])} values; allowed: {len(seeds)}, as many as "
            "config.seeds has, since config.members.paired is True."
        )
    if not uneven:
        yield from _repetition("seeds", seeds, map(str, members(config)))


def _repetition(name: str, given: Sequence, distinct: Iterable) -> Iterator[str]:
    twice = [value for value, count in Counter(distinct).items() if count > 1]
    if twice:
        yield f"config.{name} is {given}; allowed: no repetition, but '{twice[0]}' is there twice."


def _hypers(values: dict[str, Any]) -> Hypers:
    finals = {f"{name}_final": values[name] for name in ANNEALED}
    given = {name: value for name, value in values.items() if value is not None}
    return Hypers(**(finals | given))


def _set(config: ConfigDict, seeds: Any, lists: dict[str, Any], *, paired: bool = False) -> None:
    with config.ignore_type():
        config.seeds = seeds
        for name in NAMES:
            config.members[name] = lists.get(name)
        config.members.paired = paired


def _distinct(values: Sequence) -> tuple:
    return tuple(dict.fromkeys(values))
