"""`branchynet train`: a recipe becomes an artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import Progress, TaskID

from branchynet.errors import need
from branchynet.exits.rules import Criterion
from cli.commands.train_codec import train_bottleneck_of
from cli.options import ArtifactOption, DataOption, JsonOption, console, progress_bar, write_json

if TYPE_CHECKING:
    from branchynet.artifact.manifest import Manifest
    from branchynet.data.datasets import Dataset
    from branchynet.training.data_parallel import Team
    from branchynet.training.recipes import Recipe
    from branchynet.training.trainer import Phase, Step, Trained

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
ThreadsOption = Annotated[
    int | None, typer.Option(help="Threads of each worker; its share of the cores if not given.", min=1)
]
WorkersOption = Annotated[
    int, typer.Option(help="Processes that share each batch, as well as or instead of threads.", min=1)
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
    threads: ThreadsOption = None,
    workers: WorkersOption = 1,
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
    need("torch")
    from branchynet.training.assembly import assemble
    from branchynet.training.recipes import RECIPES, named_recipe

    if list_recipes:
        _print_recipes(RECIPES)
        return
    workers_given = workers if workers > 1 else None
    _use_threads(threads)
    if bottleneck:
        _refuse_given({"--workers": workers_given}, "is not for --bottleneck")
        train_bottleneck_of(artifact, cut, data, out, run, settings or [], json_file, go_on=go_on)
        return
    _refuse_given({"--cut": cut, "--set": settings, "--go-on": go_on or None}, "is for --bottleneck, not given here")
    overrides = {"seed": seed, "trunk_epochs": trunk_epochs, "joint_epochs": joint_epochs}
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    chosen = dataclasses.replace(named_recipe(recipe), **given)
    job = _Job(chosen, data, run or Path("runs") / recipe, phase, trunk_from)
    with job.goes_on_when_stopped():
        calibration, trained = job.done(workers, threads)
    if trained is None:
        console.print(f"not finished: run the other phases with --run {job.run} too, then this command without --phase")
        return
    command = _command(recipe, {**given, "trunk-from": trunk_from, "weights": weights, "workers": workers_given})
    out = out or job.run / "artifact"
    name = out.name if out.name != "artifact" else recipe
    made = assemble(name, out, chosen, trained, calibration, _test_images(chosen, data), command, weights)
    console.print(f"written to {out}")
    _print_results(made.manifest, json_file)


def _use_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Job:
    """A training, said so that another process can take part in it."""

    recipe: Recipe
    data: Path | None
    run: Path
    phase: Phase | None
    trunk_from: Path | None

    def images(self) -> tuple[Dataset, Dataset]:
        """Those to train on and those held out."""
        from branchynet.training.assembly import training_split

        training, held_out = training_split(self.recipe, self.data)
        console.print(f"{training.source}: {len(training):,} images to train on, {len(held_out):,} held out")
        return training, held_out

    def trained(self, training: Dataset, held_out: Dataset, team: Team | None = None) -> Trained | None:
        """Train until the phase that was asked for is done; None while others are not."""
        from branchynet.training import trainer
        from branchynet.training.data_parallel import ALONE

        phases = (self.phase,) if self.phase else trainer.PHASES
        with progress_bar() as bar:
            return trainer.train(
                self.recipe,
                training,
                held_out,
                self.run,
                _Display(bar),
                phases=phases,
                trunk_from=self.trunk_from,
                team=team or ALONE,
            )

    @contextmanager
    def goes_on_when_stopped(self) -> Iterator[None]:
        """A block whose Ctrl-C says how to go on."""
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the same command goes on from the last whole epoch in {self.run}") from None

    def done(self, workers: int, threads: int | None) -> tuple[Dataset, Trained | None]:
        """The held-out images, and what `trained` makes, by so many *workers*."""
        if workers > 1:
            self.have_done_by(workers, threads)
        training, calibration = self.images()
        return calibration, self.trained(training, calibration)

    def have_done_by(self, workers: int, threads: int | None) -> None:
        """Have a team train; it leaves finished checkpoints, from which `trained` makes its result at once."""
        from branchynet.training.data_parallel import run_team

        run_team(workers, threads, _Job.work_with, self)

    @staticmethod
    def work_with(team: Team, job: _Job) -> None:
        """A member's part of *job*; the leader alone is heard."""
        console.quiet = not team.leads
        job.trained(*job.images(), team)


def _refuse_given(options: Mapping[str, object], why: str) -> None:
    """`InvalidInput` if one of *options* has a value, though it has no meaning here."""
    from branchynet.errors import InvalidInput

    for option, value in options.items():
        if value is not None:
            raise InvalidInput(f"{option} {why}")


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
    from branchynet.data import datasets
    from branchynet.errors import Unavailable

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


def _print_results(manifest: Manifest, json_file: Path | None) -> None:
    given = {"artifact": manifest.name, "thresholds": list(manifest.rule.thresholds)}
    write_json(json_file, {**given, **manifest.results})
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
