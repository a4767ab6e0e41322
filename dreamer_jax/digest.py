"""Checksums of a directory's files, to tell later whether one has been damaged."""

import zlib
from pathlib import Path

CHUNK = 4 * 2**20  # bytes


def digest(directory: Path) -> dict[str, list[int]]:
    """Relative path -> [bytes, CRC-32] of every file under a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): _digest_file(path) for path in files}


def damage(directory: Path, wanted: dict[str, list[int]]) -> str:
    """What differs from an earlier `digest`, as one sentence; empty if nothing does."""
    for name, (size, checksum) in wanted.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        found = _digest_file(path)
        if found[0] != size:
            return f"{name} has {found[0]} bytes, it had {size}"
        if found[1] != checksum:
            return f"{name} has another checksum than when it was written"
    return ""


def _digest_file(path: Path) -> list[int]:
    size = checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return [size, checksum]
