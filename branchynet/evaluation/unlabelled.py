"""Pictures without labels: the network's own final exit says what is right, so accuracy is agreement with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import Dataset
from branchynet.data.image_folder.own_images import OwnImages
from branchynet.evaluation.evaluation import exit_logits
from branchynet.system import usable_cores

__all__ = ["answered"]


def answered(
    artifact: Artifact, own: OwnImages, count: int | None = None, on_image: Callable[[int], None] = lambda _: None
) -> Dataset:
    """The pictures *own*, or *count* of them drawn at random, always the same, with the final exit's answers as labels.

    *on_image* receives how many are done. Raises what `OwnImages.dataset` raises.
    """
    pictures = own.some("test", len(own.digests) if count is None else count)
    network = artifact.runner(engine=artifact.reference_engine, threads=usable_cores())
    labels = exit_logits(network, pictures, on_image)[-1].argmax(axis=1).astype(np.int64)
    return replace(
        pictures, labels=labels, source=f"{pictures.source}, WITHOUT LABELS: right is what the final exit says"
    )
