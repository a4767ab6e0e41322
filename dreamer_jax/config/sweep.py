"""The members of a config: every seed with every combination of the lists in `config.members`.

Seeds vary fastest, then the lists, in the reverse order of the fields of `types.Hypers`. Members
with the same seed share all random streams (initial weights, environments, draws from the replay,
noise), so that they differ in their hyperparameters alone.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from dreamer_jax.metrics import HYPER
from dreamer_jax.types import Hypers

HYPER_NAMES = tuple(Hypers.__dataclass_fields__)
# The hyperparameters of the world model; the others are those of actors and critics.
WORLD_MODEL_HYPERS = ("model_lr", "kl_scale", "kl_balance", "free_nats", "discount")
ANNEALED = ("actor_entropy", "actor_grad_mix")


class Member(NamedTuple):
    """A member's seed and hyperparameters."""

    seed: int
    values: dict[str, Any]  # by name, of the hyperparameters listed in `config.members`

    @property
    def setting(self) -> str:
        """Return the values in words, or '' without any."""
        return ", ".join(f"{name} {value}" for name, value in self.values.items())

    def __str__(self) -> str:
        return f"seed {self.seed}" + (f", {self.setting}" if self.values else "")


def member_lists(config: ConfigDict) -> dict[str, list]:
    """Return the lists in `config.members`, in the order of the fields of `Hypers`."""
    lists = {name: config.members.get(name) for name in HYPER_NAMES}
    return {name: list(values) for name, values in lists.items() if values is not None}


def seed_list(config: ConfigDict) -> list[int]:
    """Return `config.seeds` as a list."""
    return list(range(config.seeds)) if isinstance(config.seeds, int) else list(config.seeds)


def members(config: ConfigDict) -> list[Member]:
    """Return all members of a valid config, in order."""
    lists, seeds = member_lists(config), seed_list(config)
    if config.members.get("paired"):
        rows = zip(seeds, *lists.values(), strict=True)
    else:
        combinations = itertools.product(*lists.values())
        rows = [(seed, *values) for values in combinations for seed in seeds]
    return [Member(seed, dict(zip(lists, values, strict=True))) for seed, *values in rows]


def with_members(config: ConfigDict, chosen: Sequence[Member]) -> ConfigDict:
    """Return the config of a run with the same settings and exactly these members.

    It combines seeds and lists if that gives `chosen`, and pairs them otherwise. The chosen members
    must have values for the same names.
    """
    changed = config.copy_and_resolve_references()
    names = chosen[0].values if chosen else ()
    columns = {name: tuple(member.values[name] for member in chosen) for name in names}
    seeds = tuple(member.seed for member in chosen)
    _set(changed, _distinct(seeds), {n: _distinct(column) for n, column in columns.items()})
    if members(changed) != list(chosen):
        _set(changed, seeds, columns, paired=True)
    changed.env.workers = min(changed.env.workers, len(chosen) * changed.env.num_envs)
    return changed


def with_seeds(config: ConfigDict, seeds: Sequence[int]) -> ConfigDict:
    """Return the config of a run that has every hyperparameter setting with each of these seeds."""
    settings = []
    for member in members(config):
        if member.values not in settings:
            settings.append(member.values)
    return with_members(config, [Member(seed, v) for v in settings for seed in seeds])


def joined(sources: Sequence[tuple[ConfigDict, Sequence[int]]]) -> list[Member]:
    """Return chosen members of several configs, with values for all names that any config lists.

    Each source is a config with the numbers of its chosen members.
    """
    names = [n for n in HYPER_NAMES if any(n in member_lists(config) for config, _ in sources)]
    return [
        Member(member.seed, {name: member.values.get(name, config[name]) for name in names})
        for config, numbers in sources
        for member in [members(config)[number] for number in numbers]
    ]


def without_members(config: ConfigDict, names: Sequence[str]) -> ConfigDict:
    """Return the config without seeds, lists, and values of the hyperparameters `names`."""
    changed = config.copy_and_resolve_references()
    _set(changed, 1, {})
    with changed.ignore_type():
        for name in names:
            changed[name] = None
    return changed


def member_seeds(config: ConfigDict) -> list[int]:
    """Return the seed of every member."""
    return [member.seed for member in members(config)]


def member_hypers(config: ConfigDict) -> list[Hypers]:
    """Return the hyperparameters of every member."""
    shared = {name: config[name] for name in HYPER_NAMES}
    hypers = []
    for member in members(config):
        values = shared | member.values
        for name in ANNEALED:
            if values[f"{name}_final"] is None:
                values[f"{name}_final"] = values[name]
        hypers.append(Hypers(**values))
    return hypers


def member_configs(config: ConfigDict) -> list[dict[str, Any]]:
    """Return every member's config as nested dicts, with its `seed` and values, without lists."""
    shared = {k: v for k, v in config.to_dict().items() if k not in ("seeds", "members")}
    return [shared | member.values | {"seed": member.seed} for member in members(config)]


def member_labels(config: ConfigDict) -> list[dict[str, Any]]:
    """Return every member's values as metrics, for its rows in metrics.jsonl."""
    return [{HYPER + n: value for n, value in m.values.items()} for m in members(config)]


def member_errors(config: ConfigDict) -> Iterator[str]:
    """Yield what is wrong with seeds and lists that are allowed one by one."""
    lists = {f"members.{name}": values for name, values in member_lists(config).items()}
    seeds = seed_list(config)
    if not config.members.get("paired"):
        for name, values in {"seeds": seeds, **lists}.items():
            yield from _repetitions(name, values, values)
        return
    uneven = [name for name, values in lists.items() if len(values) != len(seeds)]
    for name in uneven:
        yield (
            f"config.{name} has {len(lists[name])} values; allowed: {len(seeds)}, as many as "
            "config.seeds has, since config.members.paired is True."
        )
    if not uneven:
        yield from _repetitions("seeds", seeds, map(str, members(config)))


def _repetitions(name: str, given: Sequence, distinct: Iterable) -> Iterator[str]:
    repeated = [value for value, count in Counter(distinct).items() if count > 1]
    if repeated:
        yield f"config.{name} is {given}; allowed: no repetition, but '{repeated[0]}' is repeated."


def _set(config: ConfigDict, seeds: Any, lists: dict[str, Any], *, paired: bool = False) -> None:
    with config.ignore_type():
        config.seeds = seeds
        for name in HYPER_NAMES:
            config.members[name] = lists.get(name)
        config.members.paired = paired


def _distinct(values: Sequence) -> tuple:
    return tuple(dict.fromkeys(values))
