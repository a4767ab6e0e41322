"""Configs as a whole: defaults, validation, JSON, differences."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import reduce
from numbers import Integral, Real
from operator import getitem
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

LARGEST_COUNT = 10**9  # steps, of which the records, at most two for each, have numbers in int32


def default_config() -> ConfigDict:
    """Return a config with the default of every key; it takes no other keys."""
    config = ConfigDict()
    for name, key in KEYS.items():
        *groups, leaf = name.split(".")
        node = config
        for group in groups:
            if group not in node:
                node[group] = ConfigDict()
            node = node[group]
        # A field of type `object` takes values of several types.
        any_type = name == "seeds" or key.default is None
        node[leaf] = FieldReference(key.default, field_type=object) if any_type else key.default
    return config.lock()


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every key in a config or nested dicts."""
    for name, value in config.items():
        name = str(name)  # what is no string is no key, and reported as such
        if prefix + name in KEYS and isinstance(value, ConfigDict):
            yield prefix + name, value.to_dict()
        elif prefix + name not in KEYS and isinstance(value, (Mapping, ConfigDict)):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def normalize(given: Mapping[str, Any] | ConfigDict) -> ConfigDict:
    """Return a config as it can be saved: plain numbers, and tuples for ranges and arrays.

    Numbers of NumPy and JAX become Python's, and whole floats integers where a key takes only
    those.

    Args:
        given: a config, which is not changed, or nested dicts. Keys that it lacks get their
            defaults.

    Raises:
        UsageError: it is neither, or some keys do not exist.
    """
    if not isinstance(given, Mapping | ConfigDict):
        raise UsageError(
            f"the config is {given!r}; allowed: a ConfigDict, such as default_config() returns, or "
            "a dict of some of its keys"
        )
    values = dict(flatten(given))
    unknown = [f"config.{n} does not exist.{suggest(n, KEYS)}" for n in values if n not in KEYS]
    if unknown:
        raise UsageError("\n".join(unknown))
    config = default_config()
    plain = {name: _plain(name, value) for name, value in values.items()}
    with config.ignore_type():
        config.update_from_flattened_dict(plain)
    return config


def _plain(name: str, value: Any) -> Any:
    key = KEYS[name]
    value = _plain_type(value)
    if isinstance(key.default, float) and isinstance(value, int):
        try:
            float(value)
        except OverflowError as error:
            raise UsageError(f"config.{name} is {value}; allowed: {key.kind.allowed}") from error
    whole = _whole(value)
    return whole if key.kind.check(whole) and not key.kind.check(value) else value


def _plain_type(value: Any) -> Any:
    """Return a value whose numbers have Python's types."""
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy and JAX
        value = value.tolist()
        value = tuple(value) if isinstance(value, list) else value
    if isinstance(value, range):
        value = tuple(value)
    if isinstance(value, Mapping):
        value = {name: _plain_type(entry) for name, entry in value.items()}
        with contextlib.suppress(TypeError, ValueError):  # `validate` refuses what is not JSON
            return json.loads(json.dumps(value))  # as a saved config has it: lists, no tuples
        return value
    if isinstance(value, list | tuple):
        return type(value)(map(_plain_type, value))
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _whole(value: Any) -> Any:
    """Return a value whose whole floats are integers."""
    if isinstance(value, list | tuple):
        return type(value)(map(_whole, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def validate(config: ConfigDict) -> None:
    """Check the values of all keys, and their combinations.

    Raises:
        UsageError: some are not allowed; the message lists them all.
    """
    given = dict(flatten(config))
    errors = [f"config.{n} does not exist.{suggest(n, KEYS)}" for n in given if n not in KEYS]
    # `config.members` may be a dict that a user assigned, with some of the names.
    required = (name for name in KEYS if not name.startswith("members."))
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
    """Yield what is wrong with values that are allowed one by one."""
    if config.prefill < config.length:
        yield (
            f"config.prefill is {config.prefill}; allowed: at least config.length = "
            f"{config.length}, so that there is a sequence to learn from after it."
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
            f"allowed: at least config.length = {config.length} for each of "
            f"config.env.num_envs = {config.env.num_envs}."
        )
    if config.video_context >= config.video_length:
        yield (
            f"config.video_context is {config.video_context}; allowed: less than "
            f"config.video_length = {config.video_length}, so that there are steps to predict."
        )
    if config.replay.scratch is not None and config.replay.storage == "memory":
        yield (
            f"config.replay.scratch is {config.replay.scratch!r}; allowed: None, since "
            "config.replay.storage is 'memory'."
        )
    if config.replay.scratch is not None and config.loop == "device":
        yield (
            f"config.replay.scratch is {config.replay.scratch!r}; allowed: None, since the replay "
            "of config.loop = 'device' is in device memory."
        )
    if config.loop == "device":
        for name in ("steps", "pretrain", "train_every", "train_updates", "expl.until"):
            if (value := reduce(getitem, name.split("."), config)) > LARGEST_COUNT:
                yield (
                    f"config.{name} is {value}; allowed: at most {LARGEST_COUNT} with config.loop "
                    "= 'device', which counts in 32 bits."
                )
        updates = config.pretrain + config.steps // config.train_every * config.train_updates
        if updates > LARGEST_COUNT:
            yield (
                f"config.steps, train_every and train_updates make {updates} updates; allowed: at "
                f"most {LARGEST_COUNT} with config.loop = 'device', which counts in 32 bits."
            )
    if config.planet.elites > config.planet.candidates:
        yield (
            f"config.planet.elites is {config.planet.elites}; allowed: at most "
            f"config.planet.candidates = {config.planet.candidates}."
        )
    if config.behavior == "planet" and config.expl.behavior == "task":
        for name in member_lists(config):
            if name not in WORLD_MODEL_HYPERS:
                yield (
                    f"config.members.{name} makes members that do not differ, since "
                    "config.behavior 'planet' learns no actor; allowed: "
                    f"{', '.join(WORLD_MODEL_HYPERS)}."
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
    project = config.wandb.project
    if not 1 <= len(project) <= 128 or set(project) & set("/\\#?%:"):
        yield (
            f"config.wandb.project is {project!r}; allowed: 1 to 128 characters without any of "
            "/ \\ # ? % : , as W&B requires."
        )
    if config.env.kwargs and not config.task.startswith("gym:"):
        yield (
            f"config.env.kwargs is {dict(config.env.kwargs)}; allowed: None, since config.task is "
            f"{config.task!r} and only gym:<id> takes arguments."
        )
    envs = len(member_seeds(config)) * config.env.num_envs
    if config.env.workers > envs:
        workers = config.env.workers
        yield f"config.env.workers is {workers}; allowed: at most {envs}, one per environment."


def to_json(config: ConfigDict) -> str:
    """Return the config as indented JSON, with the keys in alphabetical order."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(content: str) -> ConfigDict:
    """Return the config that `to_json` wrote; keys that it lacks get their defaults.

    Raises:
        UsageError: a key is not known.
        ValueError: the content is no JSON object.
    """
    given = json.loads(content)
    if not isinstance(given, dict):
        raise ValueError(f"it is a JSON {type(given).__name__}; allowed: an object")
    unknown = [name for name, _ in flatten(given) if name not in KEYS]
    if unknown:
        text = "does not exist in this version, and no imported module registers it."
        raise UsageError("\n".join(f"config.{n} {text}{suggest(n, KEYS)}" for n in unknown))
    config = default_config()
    with config.ignore_type():
        config.update(given)
    return config


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Return a line 'key: old -> new' for each change that a resumed run must not make."""

    def values(config: ConfigDict) -> dict[str, Any]:
        given = {n: list(v) if isinstance(v, tuple) else v for n, v in flatten(config)}
        return {n: key.default for n, key in KEYS.items()} | given | {"seeds": seed_list(config)}

    before, after = values(old), values(new)
    return [
        f"  {name}: {before.get(name)!r} -> {after.get(name)!r}"
        for name in before | after
        if name not in RUN_KEYS and before.get(name) != after.get(name)
    ]
