"""A model of somebody else's becomes an artifact: exits attached, trained, calibrated, written.

What `branchynet attach` does, for programs: the layers come with the model, so the artifact holds them as graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.weights import Weights
from branchynet.data.datasets import Dataset
from branchynet.data.preprocessing import Preprocessing
from branchynet.exits.rules import Criterion
from branchynet.exits.threshold_search import ACCURACY_DROP_POINTS
from branchynet.network.normalisation import Normalisation
from branchynet.surgery.attach import attach
from branchynet.training.assembly import calibrated
from branchynet.training.attaching.train_heads import HeadOptions, HeadProgress, train_heads
from branchynet.training.trainer import measure_normalisation

__all__ = ["AttachOptions", "attach_and_train"]


@dataclass(frozen=True, slots=True)
class AttachOptions:
    """How exits are trained and chosen by: *epochs*, with the trunk frozen or, if *joint*, learning as well.

    The rule loses at most *accuracy_drop_points* percentage points to the final exit on the held-out images. *name* of
    the artifact, that of its folder unless given; *command*: what made it, for its manifest. *preprocessing*: how
    clients shall bring image files to the model's input: as its own training did. *normalisation*: what the model was
    trained with; that of the training images unless given. *split*: what the recipe tells of the held-out images
    besides their number, as `OwnImages.draw_held_out` gives it. *new_classifier*: a fresh last linear
    layer, for the classes of the data, takes the place of the model's and is trained with the exits. *precision*: how
    the artifact keeps the weights; the rule is chosen and measured with what is kept.
    """

    epochs: int = 5
    joint: bool = False
    criterion: Criterion = Criterion.ENTROPY
    accuracy_drop_points: float = ACCURACY_DROP_POINTS
    heads: HeadOptions = field(default_factory=HeadOptions)
    name: str = ""
    command: str = ""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    normalisation: Normalisation | None = None
    split: Mapping[str, Any] = field(default_factory=dict)
    new_classifier: bool = False
    precision: Weights = "fp32"


def attach_and_train(
    model: nn.Module,
    after: Sequence[str],
    training: Dataset,
    held_out: Dataset,
    out: Path,
    options: AttachOptions | None = None,
    progress: HeadProgress | None = None,
) -> Artifact:
    """Put exits on *model* after the submodules *after*, train them on *training*, and write the artifact to *out*.

    *model* takes float32 [B, C, H, W] of normalised pixels and gives logits for the classes of the data. The rule is
    chosen on *held_out*; `Artifact.calibration_split` finds it again if it is the split by the options' seed.
    *progress* is told how far it is. Raises what `attach` and `train_heads` raise for a model or data that do not fit.
    """
    options = options or AttachOptions()
    name = options.name or out.name
    network = attach(
        model,
        after,
        len(training.classes),
        input_shape=(training.images.shape[1], training.images.shape[2], training.images.shape[3]),
        normalisation=options.normalisation or measure_normalisation(training),
        replace_classifier=options.new_classifier,
    )
    train_heads(
        network,
        training,
        held_out,
        epochs=options.epochs,
        joint=options.joint,
        final=options.new_classifier,
        options=options.heads,
        progress=progress,
    )
    recipe = {
        "calibration_images": len(held_out),
        "seed": options.heads.seed,
        "epochs": options.epochs,
        **options.split,
    }
    artifact = Artifact.create(
        out,
        network,
        name=name,
        architecture=name,
        labels=training.classes,
        dataset=training.name,
        weights=options.precision,
        preprocessing=options.preprocessing,
    ).with_fields(training={"command": options.command, "recipe": recipe})
    return calibrated(artifact, held_out, None, options.criterion, options.accuracy_drop_points)
