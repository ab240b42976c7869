"""`branchynet attach`: exits on a model of your own, as an artifact that every other command takes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from branchynet.errors import InvalidInput, need
from cli.commands.attach_options import (
    AfterOption,
    DatasetOption,
    DropOption,
    EpochsOption,
    ExitsOption,
    GroundOption,
    HeldOutOption,
    InterpolationOption,
    JointOption,
    ModelArgument,
    MomentsOption,
    NameOption,
    NewClassifierOption,
    OutOption,
    PrecisionOption,
    ResizeOption,
    SeedOption,
    SizeOption,
    WeightsOption,
    normalisation_for,
    preprocessing_for,
    size_for,
)
from cli.options import DataOption, console, progress_bar
from cli.tables.guarantee import print_difference

if TYPE_CHECKING:
    from torch import nn

    from branchynet.artifact.artifact import Artifact
    from branchynet.data.datasets import Dataset
    from branchynet.training.attaching.attach_and_train import AttachOptions

__all__ = ["attach"]


def attach(
    model: ModelArgument,
    weights: WeightsOption = None,
    after: AfterOption = None,
    exits: ExitsOption = 2,
    new_classifier: NewClassifierOption = False,
    dataset: DatasetOption = None,
    data: DataOption = None,
    out: OutOption = None,
    name: NameOption = None,
    precision: PrecisionOption = "fp32",
    epochs: EpochsOption = 5,
    joint: JointOption = False,
    calibration_images: HeldOutOption = None,
    accuracy_drop: DropOption = 0.1,
    seed: SeedOption = 0,
    resize: ResizeOption = None,
    interpolation: InterpolationOption = None,
    ground: GroundOption = "white",
    size: SizeOption = None,
    mean: MomentsOption = None,
    std: MomentsOption = None,
) -> None:
    """Put exits on your own model, train them, choose thresholds, and write an artifact of ONNX graphs.

    The model takes normalised images and gives logits for their classes, which are the names of your folders, sorted;
    its code stays as it is. The exits are trained on the frozen model, so its own answers do not change. Nodes that
    serve the artifact need neither torch nor the model's code.
    """
    need("torch", "onnx", "onnxscript")
    from branchynet.surgery.model_sources import find_model
    from branchynet.training.attaching.attach_and_train import AttachOptions
    from branchynet.training.attaching.images import input_shape, training_images
    from branchynet.training.attaching.train_heads import HeadOptions

    found = find_model(model, weights)
    preprocessing = preprocessing_for(found.trained, resize, interpolation, ground)
    size = size_for(found, dataset, size)
    shape = input_shape(dataset, size)
    if out is None:
        _list_places(found.model, shape, after, exits)
        return
    normalisation = normalisation_for(found.trained, mean, std, shape[0])
    *split, told = training_images(dataset, data, size, preprocessing, calibration_images, seed)
    options = AttachOptions(
        epochs,
        joint,
        accuracy_drop_points=accuracy_drop,
        heads=HeadOptions(seed=seed),
        name=name or out.name,
        command=shlex.join(["branchynet", *sys.argv[1:]]),
        preprocessing=preprocessing,
        normalisation=normalisation,
        split=told,
        new_classifier=new_classifier,
        precision=precision,
    )
    chosen = after or _proposed(found.model, shape, exits)
    _report(_train(found.model, chosen, split, out, options), len(split[1]), out)


def _proposed(model: nn.Module, shape: tuple[int, int, int], exits: int) -> list[str]:
    """Where exits go that nobody has placed; said, with what crosses there."""
    from branchynet.surgery.attach import cuts_table, legal_cuts
    from branchynet.surgery.places import proposed_places

    proposed = proposed_places(legal_cuts(model, shape), exits)
    print(cuts_table(proposed))
    return [cut.name for cut in proposed]


def _list_places(model: nn.Module, shape: tuple[int, int, int], after: list[str] | None, exits: int) -> None:
    from branchynet.surgery.attach import cuts_table, legal_cuts
    from branchynet.surgery.places import places_to_cut, proposed_places

    if after:
        raise InvalidInput("--out is missing: the folder that the artifact is written to")
    cuts = legal_cuts(model, shape)
    places = places_to_cut(cuts)
    print(cuts_table(places))
    console.print(
        f"{len(places)} of {len(cuts)} legal places, the others are inside of blocks; the bytes are those of one "
        "image's feature map in fp32. --after NAME puts an exit there.",
        soft_wrap=True,
    )
    proposed = " ".join(f"--after {shlex.quote(cut.name)}" for cut in proposed_places(cuts, exits))
    console.print(f"Unless told otherwise, --out puts them {proposed}", soft_wrap=True)


def _train(model: nn.Module, after: list[str], split: Sequence[Dataset], out: Path, options: AttachOptions) -> Artifact:
    from branchynet.training.attaching.attach_and_train import attach_and_train
    from branchynet.training.attaching.train_heads import HeadProgress

    training, held_out = split
    console.print(
        f"{training.source}: {len(training):,} images to train on, {len(held_out):,} held out", soft_wrap=True
    )
    with progress_bar() as bar:
        images = bar.add_task("running the model on all images", total=None, note="", visible=not options.joint)
        task = bar.add_task("training exits", total=options.epochs, note="")

        class Shown(HeadProgress):
            def on_image(self, done: int, total: int) -> None:
                bar.update(images, completed=done, total=total)

            def on_epoch(self, done: int, accuracies: tuple[float, ...]) -> None:
                words = " / ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies)
                bar.update(task, completed=done)
                bar.console.print(f"epoch {done}: {words} % of the held-out images, by exit")

        return attach_and_train(model, after, training, held_out, out, options, Shown())


def _report(artifact: Artifact, held_out: int, out: Path) -> None:
    rule, found = artifact.manifest.rule, artifact.manifest.results["calibration"]
    shares = " / ".join(f"{100 * share:.1f}" for share in found["exit_shares"])
    console.print(
        f"thresholds {', '.join(f'{value:.4g}' for value in rule.thresholds)}: {100 * found['accuracy']:.2f} % of "
        f"{held_out:,} held-out images, exits {shares} %"
    )
    print_difference(found["difference_points"])
    console.print(f"written: {out}   next: branchynet edge --artifact {shlex.quote(str(out))}", soft_wrap=True)
