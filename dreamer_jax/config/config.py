"""Configs as a whole: defaults, validation, JSON, differences. Their keys are in keys.py."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from dreamer_jax.config.keys import KEYS, RUN_KEYS
from dreamer_jax.config.sweep import OF_WORLD_MODEL, given_seeds, grid_errors, listed, member_seeds
from dreamer_jax.errors import UsageError, suggest


def default_config() -> ConfigDict:
    """All keys at their defaults, locked against unknown ones."""
    config = ConfigDict()
    for name, key in KEYS.items():
        *groups, leaf = name.split(".")
        node = config
        for group in groups:
            if group not in node:
                node[group] = ConfigDict()
            node = node[group]
        # A reference of type `object` takes a number as well as a list, or None.
        loose = name == "seeds" or key.default is None
        node[leaf] = FieldReference(key.default, field_type=object) if loose else key.default
    return config.lock()


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every leaf."""
    for name, value in config.items():
        if isinstance(value, (Mapping, ConfigDict)):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def validate(config: ConfigDict) -> None:
    """Check every key and the combinations of keys.

    Raises:
        UsageError: names each wrong key, what was given, what is allowed, and the nearest name.
    """
    given = dict(flatten(config))
    errors = [f"config.{n} does not exist.{suggest(n, KEYS)}" for n in given if n not in KEYS]
    # A dict that was assigned to `config.members` need not have all names.
    needed = [name for name in KEYS if not name.startswith("members.")]
    errors += [f"config.{name} is missing." for name in needed if name not in given]
    for name, value in given.items():
        if name in KEYS and not KEYS[name].kind.check(value):
            near = suggest(value, _choices(name)) if isinstance(value, str) else ""
            errors.append(f"config.{name} is {value!r}; allowed: {KEYS[name].kind.allowed}.{near}")
    errors = errors or list(grid_errors(config)) or list(_combination_errors(config))
    if errors:
        raise UsageError("\n".join(errors))


def _choices(name: str) -> list[str]:
    return KEYS[name].kind.allowed.removeprefix("one of ").split(", ")


def _combination_errors(config: ConfigDict) -> Iterator[str]:
    """Values that are allowed each by itself, but not together."""
    if config.prefill < config.length:
        yield (
            f"config.prefill is {config.prefill}; allowed: at least config.length = "
            f"{config.length}, or no sequence can be drawn after it."
        )
    if config.steps < config.prefill:
        yield (
            f"config.steps is {config.steps}; allowed: at least config.prefill = "
            f"{config.prefill}, which it includes."
        )
    per_env = config.replay.capacity // config.env.num_envs
    if per_env < config.length:
        yield (
            f"config.replay.capacity is {config.replay.capacity}, {per_env} per environment; "
            f"allowed: at least config.length = {config.length} for each of the "
            f"{config.env.num_envs} of config.env.num_envs."
        )
    if config.planet.elites > config.planet.candidates:
        yield (
            f"config.planet.elites is {config.planet.elites}; allowed: at most "
            f"config.planet.candidates = {config.planet.candidates}."
        )
    if config.behavior == "planet" and config.expl.behavior == "task":
        for name in (name for name in listed(config) if name not in OF_WORLD_MODEL):
            yield (
                f"config.members.{name} makes members that do not differ, since config.behavior "
                f"'planet' learns no actor; allowed: {', '.join(OF_WORLD_MODEL)}."
            )
    if 0 < config.expl.until <= config.prefill:
        yield (
            f"config.expl.until is {config.expl.until}; allowed: 0 for all steps, or more than "
            f"config.prefill = {config.prefill}, whose actions are random."
        )
    if config.expl.noise == "epsilon_greedy":
        for name in ("amount", "amount_final"):
            if (config.expl[name] or 0) > 1:
                yield (
                    f"config.expl.{name} is {config.expl[name]}; allowed: at most 1, since it is "
                    "a probability where config.expl.noise is 'epsilon_greedy'."
                )
    envs = len(member_seeds(config)) * config.env.num_envs
    if config.env.workers > envs:
        workers = config.env.workers
        yield f"config.env.workers is {workers}; allowed: at most the {envs} environments."


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON; `from_json` gives an equal one."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(content: str) -> ConfigDict:
    """The config that `to_json` wrote; keys it lacks get their defaults."""
    config = default_config()
    with config.ignore_type():
        config.update(json.loads(content))
    return config


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Lines 'key: old -> new' of the keys that must not change within a work directory."""
    defaults = {name: key.default for name, key in KEYS.items()}
    before, after = (defaults | dict(flatten(c)) | {"seeds": given_seeds(c)} for c in (old, new))
    names = [n for n in before | after if n not in RUN_KEYS]
    rows = [(n, _plain(before.get(n)), _plain(after.get(n))) for n in names]
    return [f"  {n}: {a!r} -> {b!r}" for n, a, b in rows if a != b]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
