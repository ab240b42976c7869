"""`branchynet evaluate`: an artifact's figures with everything counted, against its plain trunk and baselines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.measuring import EngineChoice, Measuring
from cli.options import DataOption, JsonOption, console, printing_after, progress_bar, write_json
from cli.tables.evaluation import print_evaluation

if TYPE_CHECKING:
    from rich.progress import Progress

    from branchynet.data.datasets import Dataset
    from branchynet.evaluation.baselines import Baseline
    from branchynet.evaluation.evaluation import Evaluated

__all__ = ["evaluate"]

DEFAULT = "lenet-fashion"


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
    json_file: JsonOption = None,
) -> None:
    """Accuracy, exit shares, ms per image at batch 1 and MACs, against the plain trunk trained with the same recipe.

    Both gains are shown: with branch heads and exit rule counted (what you pay), and without (what the released
    code of 2016 timed). Uses the test split of the artifact's data set.
    """

    asked = _checked(name, artifact, plot, sample=sample, record=record) or DEFAULT
    measuring = Measuring(engine, timing_images, passes, data)
    given = {kind: small for kind, small in (("static", static), ("cascade", cascade)) if small}
    _evaluate(asked, measuring, json_file, sample=sample, given=given, plot=plot, record=record)


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


def _evaluate(
    name: str,
    measuring: Measuring,
    json_file: Path | None,
    *,
    sample: bool,
    given: Mapping[str, str],
    plot: Path | None,
    record: bool,
) -> None:
    """Evaluate the artifact *name* beside its baselines (*given* ones first), and write, record, print and draw it."""
    from branchynet.artifact.artifact import Artifact
    from branchynet.evaluation.compare import comparison_figures
    from branchynet.evaluation.machine import describe_machine

    artifact = Artifact.open(name)
    manifest, engine = artifact.manifest, measuring.choice(artifact)
    dataset = measuring.test_images(artifact, sample=sample)
    with progress_bar() as bar:
        evaluated = measuring.score(artifact, dataset, bar)
        baselines, left_out = _load_baselines(evaluated, dataset, given, measuring.data, bar)
        rules = {"early_exit": manifest.rule}
        timings = measuring.time(evaluated, rules, baselines, dataset, bar, by_exit=plot is not None)
    figures = {
        "artifact": manifest.name,
        "dataset": dataset.name,
        "images": len(dataset),
        "command": measuring.command(name, engine, given),
        "engine": engine.value,
        "machine": describe_machine(),
        "timing_images": min(measuring.timing_images, len(dataset)),
        "passes": measuring.passes,
        **comparison_figures(evaluated, baselines, timings),
    }
    with printing_after(lambda: print_evaluation(figures, dataset.source, left_out)):
        write_json(json_file, figures)
        if record:
            from branchynet.evaluation import recorded_results

            recorded_results.record(artifact, figures, {**manifest.baselines, **given})
        if plot is not None:
            from cli.plots.evaluation import draw_evaluation

            draw_evaluation(evaluated, figures, plot)
    if plot is not None:
        console.print(f"plot: {plot}", soft_wrap=True)
    if record:
        console.print(f"recorded in {artifact.folder}", soft_wrap=True)


def _load_baselines(
    evaluated: Evaluated, dataset: Dataset, given: Mapping[str, str], data: Path | None, bar: Progress
) -> tuple[list[Baseline], dict[str, str]]:
    """The baselines, and why one is left out that the manifest names; one that was asked for must be there."""
    from branchynet.errors import Unavailable, UnknownModel
    from branchynet.evaluation.baselines import cascade_baseline, static_baseline

    found: list[Baseline] = []
    left_out: dict[str, str] = {}
    for kind, name in {**evaluated.artifact.manifest.baselines, **given}.items():
        task = bar.add_task(f"scoring {name}", total=None, note=kind)
        try:
            if kind == "static":
                found.append(static_baseline(name, evaluated, dataset))
            else:
                found.append(cascade_baseline(name, evaluated, dataset, data))
        except (UnknownModel, Unavailable) as error:
            if kind in given:
                raise
            left_out[kind] = str(error)
        bar.update(task, total=1, completed=1)
    return found, left_out
