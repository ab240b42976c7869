"""`branchynet edge` and `branchynet cloud`: the same programs as `python -m edge_node` and `python -m cloud_node`."""

from __future__ import annotations

import typer

__all__ = ["NAMES", "register"]

NAMES = ("edge", "cloud")
# The nodes read their own flags, so that there is one place which knows them.
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def edge(context: typer.Context) -> None:
    """Serve the edge half (see `branchynet edge --help`)."""
    from edge_node.__main__ import main

    raise typer.Exit(main(context.args, "branchynet edge"))


def cloud(context: typer.Context) -> None:
    """Serve the cloud half (see `branchynet cloud --help`)."""
    from cloud_node.__main__ import main

    raise typer.Exit(main(context.args, "branchynet cloud"))


def register(app: typer.Typer, panel: str) -> None:
    """Add both commands to *app*, in the *panel* of its help."""
    app.command("edge", rich_help_panel=panel, context_settings=_PASS_THROUGH)(edge)
    app.command("cloud", rich_help_panel=panel, context_settings=_PASS_THROUGH)(cloud)
