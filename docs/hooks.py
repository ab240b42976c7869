"""Pages that the program writes about itself: MkDocs calls `on_page_markdown` for each page before it is rendered.

A line `<!-- generated: commands -->` (or settings, python) stands where the text goes, so that flags, settings and
public names are never copied by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import typer

import branchynet
from branchynet.serving.settings import NodeSettings
from cli.main import app
from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings

_PLACE = re.compile(r"<!-- generated: (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with every generated part filled in."""
    return _PLACE.sub(lambda match: _PARTS[match[1]](), markdown)


def _commands() -> str:
    return "\n\n".join(_command(path, command) for path, command in _walk(typer.main.get_command(app), ()))


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below *command*, groups left out, with the words that call it."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        yield from _walk(below, (*path, name))


def _command(path: tuple[str, ...], command: Any) -> str:
    """Heading, help and options of one command."""
    text = re.sub(r"\n(?!\n)\s*", "\n", command.help or "").replace("\b\n", "")
    options = [option for option in command.params if option.name != "help"]
    if not options:
        return f"### branchynet {' '.join(path)}\n\n{text} Its flags are its [settings](settings.md)."
    return f"### branchynet {' '.join(path)}\n\n{text}\n\n" + _table(map(_option, options), "argument", "default")


def _option(option: Any) -> tuple[str, str, str]:
    names = [*option.opts, *option.secondary_opts] if option.param_type_name == "option" else [option.name.upper()]
    default = "" if option.default in (None, False, ()) or callable(option.default) else f"`{_plain(option.default)}`"
    return ", ".join(f"`{name}`" for name in names), default, getattr(option, "help", None) or ""


def _plain(default: Any) -> str:
    return str(getattr(default, "value", default))


def _settings() -> str:
    """Three tables: what both nodes take, then what only one of them takes."""
    shared = set(NodeSettings.model_fields)
    parts = (
        ("Both nodes", NodeSettings, shared - {"port"}),
        ("Edge", EdgeSettings, set(EdgeSettings.model_fields) - shared | {"port"}),
        ("Cloud", CloudSettings, set(CloudSettings.model_fields) - shared | {"port"}),
    )
    return "\n\n".join(f"## {title}\n\n{_fields(kind, names)}" for title, kind, names in parts)


def _fields(kind: type[NodeSettings], names: set[str]) -> str:
    fields = [(name, field) for name, field in kind.model_fields.items() if name in names]
    rows = (
        (f"`--{name.replace('_', '-')}`", _default(field.default), field.description or "") for name, field in fields
    )
    return _table(rows, "flag", "default")


def _default(value: Any) -> str:
    return "" if value is None else f"`{_plain(value)}`"


def _python() -> str:
    """A directive for each public name, at the module that defines it."""
    homes = ((name, getattr(branchynet, name)) for name in sorted(branchynet.__all__) if name != "__version__")
    return "\n\n".join(f"::: {thing.__module__}.{name}" for name, thing in homes)


def _table(rows: Any, *columns: str) -> str:
    head = (*columns, "meaning")
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |" for row in cells
    )


_PARTS: dict[str, Callable[[], str]] = {"commands": _commands, "settings": _settings, "python": _python}
