"""What commands print: tables and progress for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from branchynet import files
from branchynet.errors import InvalidInput
from branchynet.serving.address import Address
from branchynet.terminal import shown, shown_lines

__all__ = [
    "ArtifactOption",
    "DataOption",
    "JsonOption",
    "checked_address",
    "colour",
    "console",
    "fail_if_lost",
    "printing_after",
    "progress_bar",
    "write_json",
]


class _Console(Console):
    """Prints texts as they are: names, labels and reasons of others are in them, which may look like rich's markup."""

    def __init__(self) -> None:
        # A table that is piped into a file or a log needs no narrower columns than one on a screen.
        width = None if sys.stdout is not None and sys.stdout.isatty() else 120
        super().__init__(width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """*text*, with escapes in place of what would move the cursor."""
        return super().render_str(shown_lines(text), **options)


class _Words(TextColumn):
    """A column of a progress display that shows texts as they are."""

    def render(self, task: Task) -> Text:
        return Text(shown(self.text_format.format(task=task)))


console = _Console()

JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the printed figures to this file as JSON.", dir_okay=False)
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="BRANCHYNET_DATA",
        help="Your pictures (class folders, a table or an archive), or the folder of a known data set's files.",
    ),
]
ArtifactOption = Annotated[
    str, typer.Option("--artifact", "-a", help="Name of a shipped artifact, or folder of a trained one.")
]


def colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour's name or of #rrggbb; `InvalidInput` for what is none."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise InvalidInput(f"--ground is {text!r}; it must be a colour, as white or #204080") from None
    return red, green, blue


def progress_bar() -> Progress:
    """A progress display; it leaves nothing behind on the screen."""
    return Progress(
        _Words("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        _Words("{task.fields[note]}"),
        console=console,
        transient=True,
    )


def checked_address(value: str | list[str] | None) -> str | list[str] | None:
    """The callback of an option or argument that is an address, or several; its error names the option, too."""
    try:
        for text in [value] if isinstance(value, str) else value or ():
            Address.parse(text)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None
    return value


def fail_if_lost(lost: int) -> None:
    """End the command with code 1 if that many requests have no answer; call it when the figures are written."""
    if lost:
        console.print(f"requests lost: {lost:,}")
        raise typer.Exit(1)


@contextmanager
def printing_after(show: Callable[[], None]) -> Iterator[None]:
    """A block that writes files, with *show* behind it: nobody may read what it prints, and files may fail."""
    try:
        yield
    finally:
        show()


def write_json(path: Path | None, figures: dict[str, Any]) -> None:
    """Replace *path* by *figures*, making its folder; does nothing without a path."""
    if path is not None:
        files.write_json(path, figures)
