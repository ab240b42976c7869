"""What we print, wherever it goes: to a terminal of few characters, to a pipe that ends early, to nobody."""

from __future__ import annotations

import codecs
import io
import logging
import os
import signal
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["NOBODY_READS", "complain", "shown", "shown_lines", "steady_output"]

# As a shell reports a program that was ended because nobody reads on.
NOBODY_READS = 128 + signal.SIGPIPE
_ERRORS = "branchynet"
# Characters of ours for those who cannot have them; others are shown by their number.
_PLAIN = {"…": "...", "–": "-", "−": "-", "─": "-", "×": "x", "·": ".", "±": "+-", "≤": "<=", "✓": "yes", "√": "sqrt"}
_PLAIN |= {"►": ">", "→": "->", "╲": "\\", "│": "|", "█": "#", "µ": "u", "°": " deg", "²": "^2", "³": "^3"}


def shown(text: object) -> str:
    """*text* that is not ours (a file name, a label, a reason) on one line.

    What would move the cursor, break the line or change its direction, and bytes that are no text, become escapes.
    """
    return "".join(
        sign if sign.isprintable() or unicodedata.category(sign) == "Zs" else _escape(sign) for sign in str(text)
    )


def shown_lines(text: object) -> str:
    """As `shown`, but line breaks are kept: for our own texts, in which there may be others'."""
    return "\n".join(map(shown, str(text).split("\n")))


def complain(program: str, error: object) -> None:
    """Say on standard error what *program* ends with."""
    print(f"{program}: {shown_lines(error)}", file=sys.stderr)


@contextmanager
def steady_output() -> Iterator[None]:
    """What a program's `main` runs in: no output fails for its characters, and none is missed that nobody reads.

    If standard output is a pipe that nobody reads any more, the program ends as others do, by `SystemExit` with 141. If
    standard error is, its output is dropped. What is closed at the start reads as empty and is written to nobody. Also
    a decorator.
    """
    _open_what_is_closed()
    codecs.register_error(_ERRORS, _plainly)
    for name in ("stdout", "stderr"):
        setattr(sys, name, _steady(getattr(sys, name), getattr(sys, f"__{name}__")))
    if logging.lastResort is not None:  # it writes what a program logs that has set up no logs
        logging.lastResort.setFormatter(_OneLine())
    try:
        yield
    finally:
        _flush()


def _open_what_is_closed() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free: else a file that we open later gets it, and our output.
            os.open(os.devnull, os.O_RDWR)


def _steady(stream: Any, original: Any) -> Any:
    """*stream*, which neither fails for a character nor, if it is the program's *original*, for a pipe's end."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8", errors=_ERRORS)
    if stream is original and isinstance(stream, io.TextIOWrapper):
        stream.flush()
        number = stream.fileno()
        return io.TextIOWrapper(
            io.BufferedWriter(_Output(number, "wb", closefd=False)),
            encoding=stream.encoding,
            errors=_ERRORS,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_ERRORS)
    return stream


class _Output(io.FileIO):
    """Standard output or standard error; after a failure nothing more is written to it, nor tried."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except BlockingIOError:
            raise
        except OSError as error:
            nobody = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nobody, self.fileno())
            os.close(nobody)
            if self.fileno() != 1:
                return len(content)
            if isinstance(error, BrokenPipeError):
                # Not the error, which may as well be a connection's, and of which libraries make what they like.
                raise SystemExit(NOBODY_READS) from None
            raise OSError(error.errno, error.strerror, "standard output") from None


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown_lines(super().format(record))


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        complain("standard output", error.strerror)
        raise SystemExit(2) from None


def _escape(sign: str) -> str:
    number = ord(sign)
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a file name that is no text
        return f"\\x{number - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What a stream writes in place of characters that it cannot."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN[sign] if sign in _PLAIN else _escape(sign) for sign in signs), error.end
