"""`branchynet`: one command line for everything. Each command is a module; this one lists them by what they are for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

import branchynet
from branchynet.errors import EXTRAS, BranchyNetError, not_installed
from branchynet.system import keep_freed_memory
from branchynet.terminal import complain, steady_output
from cli import nodes
from cli.commands import (
    attach,
    bench,
    calibrate,
    classify,
    demo,
    deploy,
    evaluate,
    fleet,
    models,
    plan,
    profile,
    simulate,
    train,
)
from cli.studies import codecs, criteria, drift, paper, replay, validate

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """The commands; what Ctrl-C ends says so, with what is left of it if the command tells."""

    def invoke(self, context: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(context)
        except KeyboardInterrupt as stop:
            complain("branchynet", f"stopped{': ' if stop.args else ''}{stop}")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="branchynet",
    cls=_Commands,
    help="Edge-cloud early-exit inference: easy samples leave on the edge, hard ones go on in the cloud.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
study = typer.Typer(
    name="study",
    help="Experiments whose result is a table: exit criteria, codecs, drift, the paper, the simulator.",
    no_args_is_help=True,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"branchynet {branchynet.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    del version
    if context.invoked_subcommand not in nodes.NAMES:
        keep_freed_memory()


def _add(command: Callable[..., Any], *examples: str, panel: str | None = None, group: typer.Typer = app) -> None:
    """Add *command* to *group*, with *examples* of it below its help."""
    # Typer joins lines that follow each other; an empty one keeps each example on a line of its own.
    group.command(rich_help_panel=panel, epilog="\n\n".join(("Examples:", *examples)))(command)


_add(demo.demo, "branchynet demo", "branchynet demo --uplink-mbps 2 --rtt-ms 100 --codec bottleneck", panel="Serve")
nodes.register(app, panel="Serve")
_add(
    classify.classify,
    "branchynet classify photo.jpg --edge 127.0.0.1:8001",
    "branchynet classify --sample 20 --policy cloud-only",
    panel="Serve",
)
_add(
    bench.bench,
    "branchynet bench 127.0.0.1:8001 --concurrency 16 --seconds 20",
    "branchynet bench 127.0.0.1:8011 --rate 200 --protocol open-inference",
    panel="Serve",
)
_add(
    deploy.deploy,
    "branchynet deploy lite0@v2 --edge 10.0.0.7:8001 --edge 10.0.0.8:8001 --cloud 10.0.0.2:8011",
    panel="Serve",
)
_add(
    profile.profile,
    "branchynet profile --artifact lenet-fashion --out profile.json",
    "branchynet profile --edge 127.0.0.1:8001 --cloud 127.0.0.1:8011",
    panel="Decide",
)
_add(
    plan.plan,
    "branchynet plan --uplink-mbps 5 --rtt-ms 40",
    "branchynet plan --uplink-mbps 5 --rtt-ms 40 --edge-slowdown 10 --max-p95-ms 150 --plot plan.png",
    panel="Decide",
)
_add(
    calibrate.calibrate,
    "branchynet calibrate --artifact lenet-mnist --accuracy-drop 0.2",
    "branchynet calibrate --artifact lenet-mnist --tolerated-loss 0.005 --out tuned",
    panel="Decide",
)
_add(
    train.train,
    "branchynet train --recipe lenet-mnist",
    "branchynet train --bottleneck --artifact lenet-fashion --cut 1 --out runs/lenet-fashion",
    panel="Train",
)
_add(
    attach.attach,
    "branchynet attach model.py:build --dataset cifar10",
    "branchynet attach model.py:build --after layer1 --after layer2 --out my-model",
    panel="Train",
)
_add(
    evaluate.evaluate,
    "branchynet evaluate lenet-fashion --sample",
    "branchynet evaluate runs/lenet-mnist/artifact --engine best --record",
    panel="Train",
)
_add(models.models, "branchynet models", "branchynet models --json models.json", panel="Train")
_add(
    simulate.simulate,
    "branchynet simulate --sweep uplink=0.25:100:log9 rtt=5,20,80,200 'cut=*'",
    "branchynet simulate examples/scenarios/city.toml",
    panel="Simulate",
)
_add(
    fleet.fleet,
    "branchynet fleet examples/scenarios/street.toml",
    "branchynet fleet examples/scenarios/street.toml --edges 4 --requests 50",
    panel="Simulate",
)
app.add_typer(study, rich_help_panel="Study")
_add(
    criteria.criteria,
    "branchynet study criteria",
    "branchynet study criteria lenet-mnist --plot trust.png",
    group=study,
)
_add(codecs.codecs, "branchynet study codecs --sample", "branchynet study codecs alexnet-cifar10", group=study)
_add(drift.drift, "branchynet study drift --sample", "branchynet study drift lenet-mnist --plot drift.png", group=study)
_add(paper.paper, "branchynet study paper", "branchynet study paper --engine best --json paper.json", group=study)
_add(validate.validate, "branchynet study validate", "branchynet study validate --requests 240", group=study)
_add(
    replay.replay,
    "branchynet study replay plans.json traces/ --deadline-ms 200",
    "branchynet study replay plans.json bus.log --live --plot replay.png",
    group=study,
)


@steady_output()
def main() -> None:
    """Run the command line; our errors, and files that cannot be had, end it with their message and code 2."""
    try:
        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise  # a fault of ours, and no matter of what is installed
        complain("branchynet", not_installed(missing))
        sys.exit(2)
    except (BranchyNetError, OSError) as error:
        complain("branchynet", error)
        sys.exit(2)


if __name__ == "__main__":
    main()
