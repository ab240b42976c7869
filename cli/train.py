"""`branchynet train`: a recipe becomes an artifact."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import Progress, TaskID

from branchynet.decisions.exits import Criterion
from cli.bottleneck import train_bottleneck_of
from cli.output import ArtifactOption, DataOption, JsonOption, console, progress_bar, write_json

if TYPE_CHECKING:
    from branchynet.manifest import Manifest
    from branchynet.training.datasets import Dataset
    from branchynet.training.joint import Phase, Step, Trained
    from branchynet.training.recipes import Recipe

__all__ = ["train"]


SeedOption = Annotated[int | None, typer.Option(help="Replaces the recipe's seed.")]
TrunkEpochsOption = Annotated[int | None, typer.Option(help="Replaces the recipe's.", min=0)]
JointEpochsOption = Annotated[int | None, typer.Option(help="Replaces the recipe's.", min=1)]
OutOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the artifact; runs/RECIPE/artifact if not given (--bottleneck: where it is).", file_okay=False
    ),
]
RunOption = Annotated[
    Path | None, typer.Option(help="Folder for checkpoints and log; runs/RECIPE if not given.", file_okay=False)
]
PhaseOption = Annotated[
    Literal["trunk", "joint", "baseline"] | None, typer.Option(help="Run only this phase; all if not given.")
]
TrunkFromOption = Annotated[
    Path | None,
    typer.Option(
        help="Take the trunk from another run's folder (of a run that took its own so: the baseline), and have no "
        "trunk phase.",
        file_okay=False,
    ),
]
WeightsOption = Annotated[
    Literal["fp32", "fp16", "int8"],
    typer.Option(help="How weights lie on disk: fp16 halves the artifact, int8 (a scale a row) quarters it."),
]


BottleneckOption = Annotated[
    bool, typer.Option("--bottleneck", help="Train the bottleneck of one cut of a finished artifact instead.")
]
CutOption = Annotated[int | None, typer.Option(help="With --bottleneck: its cut; the artifact's own if not given.")]
GoOnOption = Annotated[
    bool, typer.Option("--go-on", help="With --bottleneck: start from the one that the artifact has at this cut.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="With --bottleneck: replaces a value of its recipe, as form, levels, kept, step, channels, width, blocks, "
        "passes, epochs, rate; may be given again.",
    ),
]


def train(
    recipe: Annotated[str, typer.Option(help="Name of the recipe; --list shows them.")] = "lenet-fashion",
    data: DataOption = None,
    out: OutOption = None,
    run: RunOption = None,
    seed: SeedOption = None,
    trunk_epochs: TrunkEpochsOption = None,
    joint_epochs: JointEpochsOption = None,
    phase: PhaseOption = None,
    trunk_from: TrunkFromOption = None,
    weights: WeightsOption = "fp32",
    threads: Annotated[int | None, typer.Option(help="Threads; all cores if not given.", min=1)] = None,
    json_file: JsonOption = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes and exit.")] = False,
    bottleneck: BottleneckOption = False,
    artifact: ArtifactOption = "lenet-fashion",
    cut: CutOption = None,
    settings: SetOption = None,
    go_on: GoOnOption = False,
) -> None:
    """Train trunk first, then all exits together (the paper's procedure), and write a calibrated artifact.

    A run that was stopped goes on from its checkpoint when the same command is given again. The log is one JSON
    object a line. The plain trunk is trained on for as long as well, to compare with, unless the recipe says otherwise.

    With --bottleneck, a finished artifact gets a small encoder and decoder for one of its cuts, the codec `bottleneck`;
    the network itself stays as it is, bit for bit.
    """
    import torch

    from branchynet.training.assembly import assemble, training_split
    from branchynet.training.recipes import RECIPES, named_recipe

    if list_recipes:
        _print_recipes(RECIPES)
        return
    if threads is not None:
        torch.set_num_threads(threads)
    if bottleneck:
        train_bottleneck_of(artifact, cut, data, out, run, settings or [], json_file, go_on=go_on)
        return
    _refuse_given({"--cut": cut, "--set": settings, "--go-on": go_on or None})
    overrides = {"seed": seed, "trunk_epochs": trunk_epochs, "joint_epochs": joint_epochs}
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    chosen = dataclasses.replace(named_recipe(recipe), **given)
    run = run or Path("runs") / recipe
    out = out or run / "artifact"
    training, calibration = training_split(chosen, data)
    trained = _trained(chosen, training, calibration, run, phase, trunk_from)
    if trained is None:
        console.print(f"not finished: run the other phases with --run {run} too, then this command without --phase")
        return
    name = out.name if out.name != "artifact" else recipe
    command = _command(recipe, {**given, "trunk-from": trunk_from, "weights": weights})
    test = _test_images(chosen, data)
    manifest = assemble(name, out, chosen, trained, calibration, test, command, weights)
    console.print(f"written to {out}")
    _print_results(manifest)
    thresholds = list(manifest.rule.thresholds)
    write_json(json_file, {"artifact": manifest.name, "thresholds": thresholds, **manifest.results})


def _refuse_given(options: dict[str, object]) -> None:
    """`InvalidInput` if one of *options*, which only a bottleneck's training takes, has a value."""
    from branchynet.errors import InvalidInput

    for option, value in options.items():
        if value is not None:
            raise InvalidInput(f"{option} is for --bottleneck, which is not given")


def _trained(
    recipe: Recipe, training: Dataset, calibration: Dataset, run: Path, phase: Phase | None, trunk_from: Path | None
) -> Trained | None:
    from branchynet.training import joint

    console.print(f"{training.source}: {len(training):,} images to train on, {len(calibration):,} held out")
    phases = (phase,) if phase else joint.PHASES
    with progress_bar() as bar:
        display = _Display(bar)
        return joint.train(recipe, training, calibration, run, display, phases=phases, trunk_from=trunk_from)


def _command(recipe: str, options: dict[str, Any]) -> str:
    """The command line that makes the artifact again."""
    kept = {name: value for name, value in options.items() if value not in (None, "fp32")}
    return " ".join(
        [
            f"branchynet train --recipe {recipe}",
            *(f"--{name.replace('_', '-')} {value}" for name, value in kept.items()),
        ]
    )


def _test_images(recipe: Recipe, data: Path | None) -> Dataset | None:
    from branchynet.errors import Unavailable
    from branchynet.training import datasets

    try:
        return datasets.load(recipe.dataset, "test", data, progress=True)
    except Unavailable as error:
        console.print(f"no test results: {error}")
        return None


def _print_recipes(recipes: dict[str, Recipe]) -> None:
    for name, recipe in recipes.items():
        network = f"{recipe.architecture.name} ({recipe.architecture.variant})"
        epochs = f"{recipe.trunk_epochs} + {recipe.joint_epochs} epochs"
        console.print(f"{name:24} {network}, {recipe.dataset}, {epochs}, {recipe.optimiser}")


def _print_results(manifest: Manifest) -> None:
    thresholds = ", ".join(f"{threshold:.4g}" for threshold in manifest.rule.thresholds)
    if thresholds:
        side = "below" if manifest.rule.criterion is Criterion.ENTROPY else "above"
        console.print(f"{manifest.name}: {manifest.rule.criterion} {side} {thresholds} leaves")
    for name, result in manifest.results.items():
        shares = " / ".join(f"{100 * share:.1f}" for share in result["exit_shares"])
        macs = f"{result['macs'] / 1e6:.3f} M MACs per image"
        console.print(f"{name}: {100 * result['accuracy']:.2f} %, exits {shares} %, {macs}")


class _Display:
    """A bar for each phase, with the loss as it falls and the held-out accuracy of every exit after each epoch."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}
        self._note = ""

    def __call__(self, step: Step) -> None:
        """Show *step*."""
        if step.accuracies is not None:
            accuracies = " / ".join(f"{100 * accuracy:.2f}" for accuracy in step.accuracies)
            self._note = f"held out {accuracies} %"
            console.print(f"{step.phase} {step.epoch + 1}/{step.epochs}: loss {step.loss:.4f}, {self._note}")
            return
        if step.phase not in self._tasks:
            self._tasks[step.phase] = self._bar.add_task(step.phase, total=step.epochs * step.steps, note="")
        done = step.epoch * step.steps + step.step
        self._bar.update(self._tasks[step.phase], completed=done, note=f"loss {step.loss:.3f} {self._note}")
