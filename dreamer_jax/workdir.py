"""The work directory of a run: where everything is, and whose it is."""

from pathlib import Path

from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.atomic import replacing
from dreamer_jax.names import UsageError


class WorkDir:
    """Paths of a run's files under one directory."""

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.videos = self.path / "videos"
        self.replay = self.path / "replay"

    def read_config(self) -> ConfigDict:
        """The config of the run in this directory.

        Raises:
            FileNotFoundError: there is none.
            UsageError: it cannot be read.
        """
        if not self.config.is_file():
            raise FileNotFoundError(f"no run in {self.path}: {self.config} does not exist")
        try:
            return config_lib.from_json(self.config.read_text())
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.config} is not a config of this version: {error}") from error

    def claim(self, config: ConfigDict) -> None:
        """Begin a run here, or go on with the one that is here.

        Raises:
            UsageError: the directory holds a run of another config (the message has the
                differences), or files that are no run.
        """
        if self.config.exists():
            different = config_lib.differences(self.read_config(), config)
            if different:
                raise UsageError(
                    f"{self.path} holds a run of another config; give another work directory, or "
                    "the config it was begun with. Differences (there -> given):\n"
                    + "\n".join(different)
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise UsageError(f"{self.path} is not empty and holds no run; give another directory")
        self.videos.mkdir(parents=True, exist_ok=True)
        with replacing(self.config) as path:
            path.write_text(config_lib.to_json(config))
