"""The complete state of an environment as bytes, without its code.

If the base environment has methods `get_state()`, returning a picklable object, and
`set_state(state)`, it can be saved through them, with its wrappers' attributes. Any environment can
be pickled as a whole, if its objects can. `trial.find_exact` finds out which way loses nothing.

Classes and functions are saved by name. A restored environment has the code of the one that was
built to receive it, so that code which the user has mended is used, and a class of `__main__` is
the same class before and after.
"""

import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cloudpickle
import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

Save = Callable[[gymnasium.Env], bytes]  # `save_parts` or `save_whole`


def has_state(env: gymnasium.Env) -> bool:
    """Return whether the base environment saves and restores its own state."""
    base = env.unwrapped
    return all(callable(getattr(base, name, None)) for name in ("get_state", "set_state"))


def save_parts(env: gymnasium.Env) -> bytes:
    """Return what `get_state()` of an environment returns, and the state of its wrappers."""
    attributes = [(type(wrapper).__name__, _attributes(wrapper)) for wrapper in _wrappers(env)]
    return _Pickler.dumps((env.unwrapped.get_state(), attributes))


def save_whole(env: gymnasium.Env) -> bytes:
    """Return an environment and its wrappers, pickled."""
    return _Pickler.dumps(env)


def restore(env: gymnasium.Env, data: bytes) -> gymnasium.Env:
    """Return an environment in the saved state: `env`, if its parts were saved, or a new one.

    Args:
        env: an environment built in the same way as the saved one.
        data: what a `Save` returned. It is unpickled: only restore what you have written.

    Raises:
        ValueError: the saved environment had other wrappers.
        pickle.UnpicklingError: it had objects of a class that `env` does not know.
    """
    saved = _Unpickler(data, env).load()
    if isinstance(saved, gymnasium.Env):
        return saved
    state, saved_attributes = saved
    wrappers = _wrappers(env)
    names = [name for name, _ in saved_attributes]
    if names != [type(wrapper).__name__ for wrapper in wrappers]:
        raise ValueError(f"the saved environment was wrapped in {names}, this one is {env}")
    env.unwrapped.set_state(state)
    for wrapper, (_, attributes) in zip(wrappers, saved_attributes, strict=True):
        vars(wrapper).update(attributes)
    return env


def layers(env: gymnasium.Env) -> list[gymnasium.Env]:
    """Return an environment's wrappers, the outermost first, and the base environment."""
    return [*_wrappers(env), env.unwrapped]


def _wrappers(env: gymnasium.Env) -> list[gymnasium.Wrapper]:
    return [env, *_wrappers(env.env)] if isinstance(env, gymnasium.Wrapper) else []


def _attributes(wrapper: gymnasium.Wrapper) -> dict[str, Any]:
    """Return the attributes that a step may change: no environments, spaces, functions, specs."""
    fixed = gymnasium.Env | spaces.Space | EnvSpec
    return {
        name: value
        for name, value in vars(wrapper).items()
        if name != "_saved_kwargs" and not isinstance(value, fixed) and not _is_function(value)
    }


def _is_function(value: Any) -> bool:
    """Return whether a value can be called, and is no object of a class with a `__call__`."""
    return callable(value) and not isinstance(type(value).__call__, types.FunctionType)


def _code(module: str, name: str) -> Any:
    """Stand in a pickle for a class or function that no import finds: see `_Unpickler`."""
    raise pickle.UnpicklingError(f"{module}.{name} belongs to an environment: use `restore`")


class _Pickler(cloudpickle.Pickler):
    """A pickler of cloudpickle that saves no class or function by value."""

    def __init__(self) -> None:
        self.file = io.BytesIO()
        super().__init__(self.file)
        self.code: dict[tuple[str, str], Any] = {}  # by module and qualified name

    @classmethod
    def dumps(cls, value: Any) -> bytes:
        pickler = cls()
        pickler.dump(value)
        return pickler.file.getvalue()

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, type | types.FunctionType) or value.__module__ == "builtins":
            return super().reducer_override(value)
        if _is_importable(value):
            return NotImplemented  # by name, and imported
        name = value.__module__, value.__qualname__
        if self.code.setdefault(name, value) is not value:
            raise pickle.PicklingError(f"there are two of {'.'.join(name)}, which differ")
        return _code, name


class _Unpickler(pickle.Unpickler):
    """The counterpart, which finds classes and functions of `__main__`, or local ones, in `env`."""

    def __init__(self, data: bytes, env: gymnasium.Env) -> None:
        super().__init__(io.BytesIO(data))
        self._env = env

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, _code.__name__):
            return self._find_code
        return super().find_class(module, name)

    def _find_code(self, module: str, name: str) -> Any:
        first, *rest = name.split(".")
        if (module, name) in self._held:
            return self._held[module, name]
        for namespace in _namespaces(self._env, module):
            value = _descend(namespace.get(first), rest)
            if value is not None:
                return value
        raise pickle.UnpicklingError(f"the environment has nothing called {module}.{name}")

    @functools.cached_property
    def _held(self) -> dict[tuple[str, str], Any]:
        """The code of the objects that the environment is made of."""
        pickler = _Pickler()
        try:
            pickler.dump(self._env)
        except Exception:
            pass  # it has a state of its own and need not be picklable: what was met is kept
        return pickler.code


def _is_importable(value: Any) -> bool:
    # In worker processes, code of `__main__` is a copy that no module holds.
    module = sys.modules.get(value.__module__)
    if module is None or value.__module__ in ("__main__", "__mp_main__"):
        return False
    return _descend(module, value.__qualname__.split(".")) is value


def _descend(value: Any, names: Sequence[str]) -> Any:
    """Return the attribute of an attribute ... of a value, None if there is none."""
    return functools.reduce(lambda node, name: getattr(node, name, None), names, value)


def _namespaces(env: gymnasium.Env, module: str) -> Iterator[dict[str, Any]]:
    """Yield what the methods of an environment see of a module's global names."""
    for layer in layers(env):
        for cls in type(layer).__mro__:
            for value in vars(cls).values() if cls.__module__ == module else ():
                yield getattr(value, "__globals__", {})
