"""Code that callers bring runs here: what it raises becomes an error of ours that says where in the model it was."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from branchynet.errors import BranchyNetError, InvalidInput

__all__ = ["foreign_code", "in_words"]


@contextmanager
def foreign_code(failed: str, module: nn.Module) -> Iterator[None]:
    """Whatever is raised in here becomes `InvalidInput`: *failed*, the submodule of *module* at fault, the first words.

    Errors of ours go through, and so does a lack of memory.
    """
    try:
        yield
    except (BranchyNetError, MemoryError):
        raise
    except Exception as error:  # layers raise whatever their authors, torch or a compiler chose
        name = _deepest(error, module)
        raise InvalidInput(f"{failed}{f' (in submodule {name!r})' if name else ''}: {in_words(error)}") from error


def in_words(error: BaseException) -> str:
    """The kind of *error* and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _deepest(error: Exception, module: nn.Module) -> str:
    """The name of the innermost submodule of *module* whose own code was running; empty if it was none."""
    names = {id(part): name for name, part in module.named_modules()}
    running = [names.get(id(frame.f_locals.get("self")), "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((name for name in reversed(running) if name), "")
