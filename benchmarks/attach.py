"""Whole = split on models that nobody here wrote, with random weights, cut at every legal place.

    python benchmarks/attach.py [--json FILE] [MODEL …]

Models of timm, torchvision and transformers; the last is no dependency: pip install transformers.
Each model gets an exit at every legal cut at once. At each cut the edge half runs, its features become bytes as on the
wire, and the cloud half goes on; its logits must be those of the model itself, bit for bit, in batches of 1 and 3.
Then it is cut at the two places that `branchynet attach` proposes, and must be the same model as before.
Bytes are those of one image's fp32 tensors, beside the uint8 image that would be sent instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from branchynet import attach, legal_cuts
from branchynet.exits.rules import ExitRule
from branchynet.network.normalisation import Normalisation
from branchynet.surgery.places import proposed_places

Shape = tuple[int, int, int]
# What each is made with. Images are as small as it takes them, so that all its places are checked in a minute.
MODELS: dict[str, dict[str, Any]] = {
    "timm:resnet18": {},
    "timm:mobilenetv3_small_050": {},
    "timm:mobilenetv4_conv_small_050": {},
    "timm:efficientnet_b0": {},
    "timm:efficientnet_lite0": {},
    "timm:regnety_002": {},
    "timm:densenet121": {},
    "timm:ese_vovnet19b_dw": {},
    "timm:ghostnet_100": {},
    "timm:hardcorenas_a": {},
    "timm:repvgg_a0": {},
    "timm:convnext_atto": {},
    "timm:poolformer_s12": {},
    "timm:mixer_s32_224": {"img_size": 64},
    "timm:vit_tiny_patch16_224": {"img_size": 64},
    "timm:deit_tiny_distilled_patch16_224": {"img_size": 64},
    "timm:swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4},
    "timm:mobilevit_xxs": {},
    "timm:efficientvit_b0": {},
    "timm:efficientvit_m0": {"img_size": 224},
    "timm:efficientformerv2_s0": {"img_size": 224},
    "timm:levit_128s": {},
    "timm:tiny_vit_5m_224": {"img_size": 224},
    "timm:fastvit_t8": {},
    "torchvision:alexnet": {},
    "torchvision:vgg11_bn": {},
    "torchvision:squeezenet1_1": {},
    "torchvision:shufflenet_v2_x0_5": {},
    "torchvision:mnasnet0_5": {},
    "torchvision:googlenet": {"init_weights": False, "aux_logits": False},
    "torchvision:inception_v3": {"init_weights": False, "aux_logits": False},
    "torchvision:maxvit_t": {"input_size": (224, 224)},
    "transformers:ViT": {"image_size": 64, "num_hidden_layers": 4},
    "transformers:DeiT": {"image_size": 64, "num_hidden_layers": 4},
    "transformers:ConvNext": {"depths": [1, 1, 3, 1]},
    "transformers:ResNet": {"depths": [1, 1, 2, 1]},
    "transformers:MobileNetV2": {},
    "transformers:MobileViT": {"image_size": 64},
}
# The images' side where it is not 64; what is made of fixed tables wants its own.
SIDES = {
    "timm:efficientformerv2_s0": 224,
    "timm:efficientvit_m0": 224,
    "timm:levit_128s": 224,
    "timm:tiny_vit_5m_224": 224,
    "torchvision:alexnet": 128,
    "torchvision:inception_v3": 128,
    "torchvision:maxvit_t": 224,
}
SIDE = 64
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


class Logits(nn.Module):
    """The logits that *model*, one of transformers', gives beside other things."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        logits: torch.Tensor = self.model(x).logits
        return logits


def create(name: str, **options: Any) -> nn.Module:
    """Model *name*, `PACKAGE:NAME`, with random weights, for `CLASSES`."""
    torch.manual_seed(0)
    package, _, kind = name.partition(":")
    options = MODELS.get(name, {}) | options
    made: nn.Module
    if package == "timm":
        made = import_timm().create_model(kind, num_classes=CLASSES, **options)
    elif package == "torchvision":
        from torchvision import models

        made = models.get_model(kind, weights=None, num_classes=CLASSES, **options)
    else:
        import transformers

        configuration = getattr(transformers, f"{kind}Config")(num_labels=CLASSES, **options)
        made = Logits(getattr(transformers, f"{kind}ForImageClassification")(configuration))
    return made.eval()


def coarse_head(shape: tuple[int, ...], classes: int) -> nn.Module:
    """No exit is taken here, so a head without weights will do."""
    width = int(np.prod(shape))
    return nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, width)), nn.AdaptiveAvgPool1d(classes), nn.Flatten())


def attach_at(model: nn.Module, names: list[str], shape: Shape) -> Any:
    """*model* as a network for images of that *shape*, cut after *names*."""
    return attach(model, names, CLASSES, input_shape=shape, normalisation=NORMALISATION, head=coarse_head)


def unequal_cuts(model: nn.Module, network: Any, shape: Shape, batch: int) -> set[int]:
    """The cuts at which the halves do not give the bits of *model*; -1 for the whole network."""
    images = np.random.default_rng(batch).integers(0, 256, (batch, *shape), np.uint8)
    with torch.inference_mode():
        expected = model(NORMALISATION(torch.from_numpy(images))).numpy().tobytes()
    never, stages = ExitRule.never(network.exits), network.total_stages
    unequal = set() if network.resume(images, 0, stages, never).logits.tobytes() == expected else {-1}
    features = images
    for cut in range(stages):
        received = np.frombuffer(features.tobytes(), features.dtype).reshape(features.shape).copy()
        if network.part(cut, stages).resume(received, cut, stages, never).logits.tobytes() != expected:
            unequal.add(cut)
        features = network.part(0, cut + 1).resume(features if not cut else received, cut, cut + 1, never).features
    return unequal


@dataclass(frozen=True)
class Row:
    """One model's result; *failed*: what was raised, or is not as it must be."""

    model: str
    side: int
    legal_cuts: int = 0
    most_tensors: int = 0
    least_bytes: int = 0
    most_bytes: int = 0
    proposed: tuple[str, ...] = ()
    failed: str = ""

    @property
    def raw_bytes(self) -> int:
        """Of one image."""
        return 3 * self.side * self.side


def check(name: str) -> Row:
    """Check *name* at every legal cut, and at those that are proposed."""
    row = Row(name, SIDES.get(name, SIDE))
    shape = (3, row.side, row.side)
    try:
        model = create(name)
        before = deepcopy(model.state_dict())
        cuts = legal_cuts(model, shape)
        names = [cut.name for cut in cuts]
        row = replace(
            row,
            legal_cuts=len(cuts),
            most_tensors=max(len(cut.crossing) for cut in cuts),
            least_bytes=min(cut.bytes for cut in cuts),
            most_bytes=max(cut.bytes for cut in cuts),
            proposed=tuple(cut.name for cut in proposed_places(cuts)),
        )
        unequal = unequal_at(model, names, shape) or unequal_at(model, list(row.proposed), shape)
        if unequal:
            return replace(row, failed=f"other bits when cut after {', '.join(unequal)}")
        if not same_state(before, model.state_dict()):
            return replace(row, failed="the model is another one afterwards")
    except Exception as error:  # a list of models goes on, whatever one of them raises
        return replace(row, failed=f"{type(error).__name__}: {error}")
    return row


def unequal_at(model: nn.Module, names: list[str], shape: Shape) -> list[str]:
    """Those of the cuts after *names* at which not all is equal; "whole" for the uncut network, "image" for cut 0."""
    network = attach_at(model, names, shape)
    unequal = set[int]().union(*(unequal_cuts(model, network, shape, batch) for batch in BATCHES))
    return [("whole", "image", *names)[cut + 1] for cut in sorted(unequal)]


def same_state(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts hold the same."""
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def main() -> int:
    """Print a line per model; 1 if anything was unequal or refused."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console()
    table = Table(title=f"whole = split, bit for bit, in batches of {BATCHES}")
    for title in ("model", "images", "legal cuts", "tensors, most", "bytes / raw image", "all equal"):
        table.add_column(title, justify="left" if title == "model" else "right")
    rows = []
    for name in track(arguments.models, "models", console=console):
        row = check(name)
        rows.append(row)
        relative = f"{row.least_bytes / row.raw_bytes:.2f} to {row.most_bytes / row.raw_bytes:.2f}"
        equal = "no" if row.failed else "yes"
        table.add_row(name, f"{row.side}x{row.side}", str(row.legal_cuts), str(row.most_tensors), relative, equal)
        console.print(f"{name}: {row.legal_cuts} cuts, {row.failed or 'all equal'}", style="dim", highlight=False)
    console.print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
