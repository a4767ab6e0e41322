"""Output streams that may break without breaking the program that prints to them."""

import contextlib
import os
from typing import Any, TextIO


class SafeStream:
    """A text stream whose writes never raise.

    Standard output may be closed, on a full disk, a pipe whose reader has ended, or of an encoding
    that lacks a character. Characters that it cannot encode are escaped; what it cannot write at
    all is lost.

    Args:
        stream: where to write; None, as `sys.stdout` where it was closed, loses everything.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except (AttributeError, OSError, ValueError):
            return False

    def write(self, text: str) -> int:
        try:
            self._write(text)
        except UnicodeEncodeError:
            escaped = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
            with contextlib.suppress(Exception):
                self._write(escaped)
        except Exception:
            pass
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with contextlib.suppress(Exception):
            self._stream.flush()

    def settle(self) -> None:
        """Give up text that cannot be flushed, so that the interpreter's exit does not try again.

        Python would exit with status 120.
        """
        try:
            self._stream.flush()
        except (AttributeError, ValueError):
            pass  # no stream, or a closed one
        except OSError:
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), self._stream.fileno())

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
