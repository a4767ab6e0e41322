"""Whole configs: defaults, validation, JSON, differences."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from dreamer_jax.config.keys import RUN_KEYS
from dreamer_jax.config.sweep import (
    WORLD_MODEL_HYPERS,
    member_errors,
    member_lists,
    member_seeds,
    seed_list,
)
from dreamer_jax.errors import UsageError, suggest
from dreamer_jax.schema import KEYS


def default_config() -> ConfigDict:
    """Return a config with all keys at their defaults, locked against other keys."""
    config = ConfigDict()
    for name, key in KEYS.items():
        *groups, leaf = name.split(".")
        node = config
        for group in groups:
            if group not in node:
                node[group] = ConfigDict()
            node = node[group]
        # A field of type `object` takes values of several types.
        several = name == "seeds" or key.default is None
        node[leaf] = FieldReference(key.default, field_type=object) if several else key.default
    return config.lock()


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every key."""
    for name, value in config.items():
        if isinstance(value, (Mapping, ConfigDict)):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def validate(config: ConfigDict) -> None:
    """Check the values of all keys, and their combinations.

    Raises:
        UsageError: a list of the wrong keys: what was given, what is allowed, the nearest name.
    """
    given = dict(flatten(config))
    errors = [f"config.{n} does not exist.{suggest(n, KEYS)}" for n in given if n not in KEYS]
    # `config.members` may be a dict that a user assigned, with some of the names.
    required = [name for name in KEYS if not name.startswith("members.")]
    errors += [f"config.{name} is missing." for name in required if name not in given]
    for name, value in given.items():
        if name in KEYS and not KEYS[name].kind.check(value):
            kind = KEYS[name].kind
            nearest = suggest(value, kind.choices) if isinstance(value, str) else ""
            errors.append(f"config.{name} is {value!r}; allowed: {kind.allowed}.{nearest}")
    errors = errors or list(member_errors(config)) or list(_combination_errors(config))
    if errors:
        raise UsageError("\n".join(errors))


def _combination_errors(config: ConfigDict) -> Iterator[str]:
    """Yield what is wrong with values of which each by itself is allowed."""
    if config.prefill < config.length:
        yield (
            f"config.prefill is {config.prefill}; allowed: at least config.length = "
            f"{config.length}, or there is no sequence to learn from after it."
        )
    if config.steps < config.prefill:
        yield (
            f"config.steps is {config.steps}; allowed: at least config.prefill = "
            f"{config.prefill}, since it includes the prefill."
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
        for name in (name for name in member_lists(config) if name not in WORLD_MODEL_HYPERS):
            yield (
                f"config.members.{name} makes members that do not differ, since config.behavior "
                f"'planet' learns no actor; allowed: {', '.join(WORLD_MODEL_HYPERS)}."
            )
    if 0 < config.expl.until <= config.prefill:
        yield (
            f"config.expl.until is {config.expl.until}; allowed: 0 to explore always, or more than "
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
    """Return the config as indented JSON, which `from_json` reads."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(content: str) -> ConfigDict:
    """Return the config that `to_json` wrote; keys that it lacks get their defaults.

    Raises:
        UsageError: a key is not known.
        ValueError: the content is not a JSON object.
    """
    given = json.loads(content)
    if not isinstance(given, dict):
        raise ValueError(f"it is a JSON {type(given).__name__}; allowed: an object")
    errors = [
        f"config.{name} does not exist in this version, nor does any imported module register it."
        f"{suggest(name, KEYS)}"
        for name, _ in flatten(given)
        if name not in KEYS
    ]
    if errors:
        raise UsageError("\n".join(errors))
    config = default_config()
    with config.ignore_type():
        config.update(given)
    return config


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Return lines 'key: old -> new' of the differing keys that a resumed run must not change."""
    defaults = {name: key.default for name, key in KEYS.items()}
    before, after = (defaults | dict(flatten(c)) | {"seeds": seed_list(c)} for c in (old, new))
    names = [n for n in before | after if n not in RUN_KEYS]
    rows = [(n, _plain(before.get(n)), _plain(after.get(n))) for n in names]
    return [f"  {n}: {a!r} -> {b!r}" for n, a, b in rows if a != b]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
