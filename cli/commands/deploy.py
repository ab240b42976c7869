"""`branchynet deploy`: running nodes go over to another version of their network, without a gap."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from branchynet.terminal import shown
from cli.options import JsonOption, checked_address, console, write_json

__all__ = ["deploy"]


def deploy(
    artifact: Annotated[
        str, typer.Argument(help="Name of a folder in the --artifacts of every node, as lite0@v2; no path.")
    ],
    edge: Annotated[
        list[str],
        typer.Option("--edge", metavar="HOST:PORT", help="An edge to move; once for each.", callback=checked_address),
    ],
    cloud: Annotated[
        str,
        typer.Option("--cloud", metavar="HOST:PORT", help="The cloud that all of them ask.", callback=checked_address),
    ],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also if the model's name, image shape, preprocessing, labels or largest batch change, which clients "
            "may hold from before.",
        ),
    ] = False,
    quiet_s: Annotated[
        float,
        typer.Option(help="The cloud drops the old version after so many seconds without a request of it.", min=0),
    ] = 5.0,
    wait_s: Annotated[float, typer.Option(help="Longest wait for that, in seconds.", min=0)] = 60.0,
    json_file: JsonOption = None,
) -> None:
    """Move running nodes to another version of their network; every request is answered, and by one version.

    The nodes run with --control and --artifacts FOLDER, in which each has the artifact. All load it beside the one that
    they serve and try it, through edge and cloud; then the edges switch between two requests, then the cloud. If a node
    refuses, all stay as they were (code 2). Code 1: the new version is served, but a node still needs the old one.
    """
    from orchestrator.runs import deploy as run

    def tell(line: str) -> None:
        console.print(line, soft_wrap=True)

    deployed = asyncio.run(run.deploy(artifact, edge, cloud, tell, force=force, quiet_s=quiet_s, wait_s=wait_s))
    write_json(
        json_file,
        {
            "artifact": artifact,
            "seconds": deployed.seconds,
            "complete": deployed.complete,
            "nodes": [asdict(move) for move in deployed.moves],
        },
    )
    tell(f"{shown(artifact)} is served; a node that is started again serves what its --artifact says: change that, too")
    if not deployed.complete:
        raise typer.Exit(1)
