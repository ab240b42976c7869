"""`branchynet evaluate`: an artifact's figures with everything counted, against its plain trunk and yard-sticks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.evaluating import EngineChoice, Measuring, evaluate_one
from cli.output import DataOption, JsonOption, write_json

__all__ = ["evaluate"]

DEFAULT = "lenet-fashion"


class Comparison(StrEnum):
    """What `--table` prints instead of one artifact."""

    PAPER = "paper"


def evaluate(
    name: Annotated[
        str | None, typer.Argument(help=f"Shipped artifact, run in runs/, or folder; {DEFAULT} if not given.")
    ] = None,
    artifact: Annotated[str | None, typer.Option("--artifact", "-a", help="The same as NAME.")] = None,
    data: DataOption = None,
    sample: Annotated[bool, typer.Option("--sample", help="Use the 1,000 shipped Fashion-MNIST images.")] = False,
    engine: Annotated[
        EngineChoice | None,
        typer.Option(help="What runs the layers; best: the quicker one for each network. Default: eager if it can."),
    ] = None,
    timing_images: Annotated[int, typer.Option(help="Images timed, drawn at random.", min=1)] = 300,
    passes: Annotated[int, typer.Option(help="Timed passes over them; each image's median counts.", min=1)] = 5,
    static: Annotated[
        str | None, typer.Option(help="A plain network to measure beside it; the manifest's if not given.")
    ] = None,
    cascade: Annotated[
        str | None, typer.Option(help="A plain network that asks the big trunk; the manifest's if not given.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the paper's Figures 3 and 4 into this file (.png, .svg).", dir_okay=False)
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the figures into the artifact's manifest.")] = False,
    table: Annotated[
        Comparison | None, typer.Option(help="paper: Table I of the paper beside our networks of the same layers.")
    ] = None,
    codecs: Annotated[
        bool, typer.Option("--codecs", help="Instead: bytes, time and accuracy of every codec at every cut.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Accuracy, exit shares, ms per image at batch 1 and MACs, against the plain trunk trained with the same recipe.

    Both gains are shown: with branch heads and exit rule counted (what you pay), and without (what the released
    code of 2016 timed). Uses the test split of the artifact's data set.
    """
    from branchynet.errors import InvalidInput

    asked = _checked(name, artifact, plot, sample=sample, record=record)
    measuring = Measuring(engine, timing_images, passes, data)
    if table is not None:
        if asked or sample or static or cascade or plot or record or codecs:
            raise InvalidInput("--table paper evaluates its own three artifacts; it takes no name and no other output")
        from cli.paper_table import paper_table

        write_json(json_file, paper_table(measuring))
        return
    if codecs:
        if static or cascade or plot or record:
            raise InvalidInput("--codecs prints its own tables; it takes no yard-stick, --plot or --record")
        from cli.codecs import codec_tables

        write_json(json_file, codec_tables(asked or DEFAULT, measuring, sample=sample))
        return
    given = {kind: small for kind, small in (("static", static), ("cascade", cascade)) if small}
    figures = evaluate_one(asked or DEFAULT, measuring, sample=sample, given=given, plot=plot, record=record)
    write_json(json_file, figures)


def _checked(name: str | None, artifact: str | None, plot: Path | None, *, sample: bool, record: bool) -> str | None:
    """The artifact that was asked for, if any; `InvalidInput` for options that contradict each other."""
    from branchynet.errors import InvalidInput

    if name and artifact and name != artifact:
        raise InvalidInput(f"NAME is {name!r} and --artifact is {artifact!r}; one of them is enough")
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise InvalidInput(f"--plot is {str(plot)!r}; it must end in .png or .svg")
    if record and sample:
        raise InvalidInput("--record is for figures of the whole test set, and --sample is a tenth of one")
    return name or artifact
