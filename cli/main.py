"""`branchynet`: one command for everything; each room of this package is one of its words."""

from __future__ import annotations

import sys

import typer

import branchynet
from branchynet.errors import BranchyNetError
from cli import (
    calibrate,
    classify,
    demo,
    drift,
    evaluate,
    fleet,
    models,
    nodes,
    plan,
    plan_grid,
    profile,
    reference,
    replay,
    simulate,
    train,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="branchynet",
    help="Edge-cloud early-exit inference: easy samples leave on the edge, hard ones go on in the cloud.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"branchynet {branchynet.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    del version


app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.add_typer(fleet.app)
app.command("classify")(classify.classify)
nodes.register(app)
app.command("evaluate")(evaluate.evaluate)
app.command("models")(models.models)
app.command("calibrate")(calibrate.calibrate)
app.command("profile")(profile.profile)
app.command("plan")(plan.plan)
app.command("plan-grid")(plan_grid.plan_grid)
app.command("replay")(replay.replay)
app.command("drift")(drift.drift)
app.command("reference")(reference.reference)
app.command("train")(train.train)


def main() -> None:
    """Run the command line; our errors, and files that cannot be had, end it with their message and code 2."""
    try:
        app()
    except (BranchyNetError, OSError) as error:
        print(f"branchynet: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
