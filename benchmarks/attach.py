"""Whole = split on models that nobody here wrote: timm's, with random weights, cut at every legal place.

    python benchmarks/attach.py [--json FILE] [MODEL …]

Each model gets an exit at every legal cut at once. At each cut the edge half runs, its features become bytes as on the
wire, and the cloud half goes on; its logits must be those of timm's own model, bit for bit, in batches of 1 and 3.
Bytes are those of one image's fp32 tensors, beside the uint8 image that would be sent instead. Needs timm (`.[dev]`).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from branchynet import attach, legal_cuts
from branchynet.exits.rules import ExitRule
from branchynet.network.normalisation import Normalisation

MODELS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "regnety_002": {},
    "densenet121": {},
    "convnext_atto": {},
    "mixer_s32_224": {"img_size": 64},
    "vit_tiny_patch16_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4},
    "mobilevit_xxs": {},
}
SHAPE = (3, 64, 64)
CLASSES = 10
BATCHES = (1, 3)
NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def import_timm() -> Any:
    """The package timm; beside a torch without CUDA, torchvision lacks operators that it wants only to see."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_timm.kept = library  # type: ignore[attr-defined]  # its end would take the operators away again
    import timm

    return timm


def create(name: str, **options: Any) -> nn.Module:
    """timm's model *name* with random weights, for `SHAPE` and `CLASSES`."""
    torch.manual_seed(0)
    made: nn.Module = import_timm().create_model(name, num_classes=CLASSES, **MODELS.get(name, {}), **options)
    return made.eval()


def coarse_head(shape: tuple[int, ...], classes: int) -> nn.Module:
    """No exit is taken here, so a head without weights will do."""
    width = int(np.prod(shape))
    return nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, width)), nn.AdaptiveAvgPool1d(classes), nn.Flatten())


def attach_at(model: nn.Module, names: list[str]) -> Any:
    """*model* as a network cut after *names*."""
    return attach(model, names, CLASSES, input_shape=SHAPE, normalisation=NORMALISATION, head=coarse_head)


def unequal_cuts(model: nn.Module, network: Any, batch: int) -> list[int]:
    """The cuts at which the halves do not give the bits of *model*; -1 for the whole network."""
    images = np.random.default_rng(batch).integers(0, 256, (batch, *SHAPE), np.uint8)
    with torch.inference_mode():
        expected = model(NORMALISATION(torch.from_numpy(images))).numpy().tobytes()
    never, stages = ExitRule.never(network.exits), network.total_stages
    unequal = [] if network.resume(images, 0, stages, never).logits.tobytes() == expected else [-1]
    features = images
    for cut in range(stages):
        received = np.frombuffer(features.tobytes(), features.dtype).reshape(features.shape).copy()
        if network.part(cut, stages).resume(received, cut, stages, never).logits.tobytes() != expected:
            unequal.append(cut)
        features = network.part(0, cut + 1).resume(features if not cut else received, cut, cut + 1, never).features
    return unequal


@dataclass(frozen=True)
class Row:
    """One model's result."""

    model: str
    legal_cuts: int
    cuts_checked: int
    most_tensors: int
    least_bytes: int
    most_bytes: int
    raw_bytes: int
    unequal: list[str]


def check(name: str) -> Row:
    """Check *name* at every legal cut."""
    model = create(name)
    cuts = legal_cuts(model, SHAPE)
    names = [cut.name for cut in cuts]
    network = attach_at(model, names)
    unequal = {cut for batch in BATCHES for cut in unequal_cuts(model, network, batch)}
    return Row(
        name,
        len(cuts),
        network.total_stages - 1,
        max(len(cut.crossing) for cut in cuts),
        min(cut.bytes for cut in cuts),
        max(cut.bytes for cut in cuts),
        int(np.prod(SHAPE)),
        [("whole", "image", *names)[cut + 1] for cut in sorted(unequal)],
    )


def main() -> int:
    """Print a line per model; 1 if anything was unequal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console()
    table = Table(title=f"whole = split, bit for bit, inputs {SHAPE}, batches of {BATCHES}")
    for title in ("model", "legal cuts", "checked", "tensors, most", "bytes / raw image", "all equal"):
        table.add_column(title, justify="left" if title == "model" else "right")
    rows = []
    for name in arguments.models:
        row = check(name)
        rows.append(row)
        relative = f"{row.least_bytes / row.raw_bytes:.2f} to {row.most_bytes / row.raw_bytes:.2f}"
        equal = "yes" if not row.unequal else f"not after {', '.join(row.unequal)}"
        table.add_row(name, str(row.legal_cuts), str(row.cuts_checked), str(row.most_tensors), relative, equal)
        console.print(f"{name}: {row.cuts_checked} cuts checked, {len(row.unequal)} unequal", style="dim")
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return int(any(row.unequal for row in rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
