"""Config files as modules: they are loaded by path, so one cannot import another by name."""

import importlib.util
from pathlib import Path
from types import ModuleType


def load_config_file(path: str | Path) -> ModuleType:
    """The module of a config file; its `get_config(arg)` returns a config."""
    path = Path(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sibling(path: str, name: str) -> ModuleType:
    """The config file `name`.py beside the one at `path`."""
    return load_config_file(Path(path).with_name(f"{name}.py"))
