"""What commands print: tables and progress for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["ArtifactOption", "DataOption", "JsonOption", "console", "progress_bar", "write_json"]

# A table that is piped into a file or a log needs no narrower columns than one on a screen.
console = Console(width=None if sys.stdout.isatty() else 120)

JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the printed figures to this file as JSON.", dir_okay=False)
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", envvar="BRANCHYNET_DATA", help="Folder with the original data files.", file_okay=False),
]
ArtifactOption = Annotated[
    str, typer.Option("--artifact", "-a", help="Name of a shipped artifact, or folder of a trained one.")
]


def progress_bar() -> Progress:
    """A progress display; it leaves nothing behind on the screen."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )


def write_json(path: Path | None, figures: dict[str, Any]) -> None:
    """Write *figures* to *path*, making its folder; does nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
