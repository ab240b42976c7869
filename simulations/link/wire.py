"""What a link reads and writes on its control connection: JSON lines."""

from __future__ import annotations

import json
import os
import sys

__all__ = ["json_line", "say"]


def say(message: dict[str, object]) -> None:
    """Write *message* to standard output as one JSON line."""
    # Unbuffered, so that nothing is left to flush at exit when the reader has gone.
    os.write(sys.stdout.fileno(), json_line(message))


def json_line(message: dict[str, object]) -> bytes:
    """*message* as it goes over the connection."""
    return json.dumps(message).encode() + b"\n"
