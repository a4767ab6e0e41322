"""Files that are replaced whole: a reader sees the old content or the new, never a part."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # no space on the disk, or in the user's share of it


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; moves it over `path` when the block succeeds.

    If the block raises, the temporary file is removed and `path` is as it was.
    """
    path = Path(path)
    # Beside the target: os.replace is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
