"""Atomic replacement of files, and checksums that reveal damaged ones."""

import errno
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 4 * 2**20  # bytes
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # no space left on the disk, or in the user's quota


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it if the block succeeds."""
    path = Path(path)
    # Beside the target: os.replace is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(directory: Path) -> dict[str, list[int]]:
    """Return [bytes, CRC-32] of every file under a directory, by relative path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): _digest_file(path) for path in files}


def damage(directory: Path, expected: dict[str, list[int]]) -> str:
    """Return how a directory differs from an earlier `digest`, or '' if it is intact."""
    for name, (size, checksum) in expected.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        found = _digest_file(path)
        if found[0] != size:
            return f"{name} has {found[0]} bytes, expected {size}"
        if found[1] != checksum:
            return f"{name} has a different checksum than when it was written"
    return ""


def _digest_file(path: Path) -> list[int]:
    size = checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return [size, checksum]
