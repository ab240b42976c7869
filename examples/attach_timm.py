"""A model that nobody here wrote, from timm to an edge and a cloud that share it.

    pip install timm onnx onnxscript onnxruntime
    python examples/attach_timm.py [FOLDER]

Exits go on a small ResNet of random weights; everything is trained for a minute on 700 of the shipped Fashion-MNIST
images, thresholds are chosen on 150 others, and accuracy is that of the 150 after them: an example's figures, no more.
The artifact in FOLDER (default: out/attached) holds ONNX graphs, so the nodes need neither timm nor torch's layers.
"""

import asyncio
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import timm
import torch

from branchynet import AsyncClient, Manifest, artifact, attach, legal_cuts
from branchynet.decisions.exits import Criterion
from branchynet.engine import Engine
from branchynet.exported import ExportedArchitecture
from branchynet.models.attach import cuts_table
from branchynet.profile import measure_cost
from branchynet.training.assembly import choose_rule
from branchynet.training.datasets import Dataset, load_sample
from branchynet.training.evaluation import measure_outcomes
from branchynet.training.heads import train_heads
from branchynet.training.joint import measure_normalisation
from orchestrator.local import LocalTopology, Topology

SHAPE = (1, 28, 28)


def build(folder: Path) -> Dataset:
    """Train, calibrate and write the artifact; the images that nothing has seen."""
    sample = load_sample()
    training, held_out, unseen = (sample.take(part) for part in np.split(np.arange(1000), [700, 850]))
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", in_chans=1, num_classes=10)

    whole_outputs = [
        cut for cut in legal_cuts(model, SHAPE) if cut.name.startswith("layer") and cut.name.count(".") < 2
    ]
    print(cuts_table(whole_outputs), end="\n\n")
    normalisation = measure_normalisation(training)
    network = attach(model, ["layer1", "layer2"], 10, input_shape=SHAPE, normalisation=normalisation)
    accuracies = train_heads(network, training, held_out, epochs=4, joint=True)
    print("held-out accuracy by exit:", "  ".join(f"{accuracy:.2f}" for accuracy in accuracies[-1]))

    cost = measure_cost(network)
    _, chosen = choose_rule(measure_outcomes(network, cost, held_out), Criterion.ENTROPY, max_drop=0.01, candidates=50)
    manifest = Manifest(
        name="attached-resnet10t",
        architecture=ExportedArchitecture.of("resnet10t", network),
        normalisation=normalisation,
        labels=sample.classes,
        dataset=sample.name,
        rule=chosen.rule,
        cut=1,
        files={},
        training={"command": "examples/attach_timm.py"},
        results={},
    )
    artifact.save_exported(folder, manifest, network, baseline=network)
    return unseen


async def serve(folder: Path, unseen: Dataset) -> None:
    """Ask an edge that holds the first stage, with a cloud that holds the others."""
    topology = Topology(artifact=str(folder.resolve()), edges=1, engine=Engine.ONNX)
    async with LocalTopology.running(topology, folder / "logs") as nodes, AsyncClient(nodes.targets[0]) as edge:
        answers = [answer for image in unseen.images for answer in await edge.classify(image[None])]
    right = sum(answer.label == label for answer, label in zip(answers, unseen.labels, strict=True))
    print(f"{len(answers)} answers, {right / len(answers):.2f} right")
    for (exit_number, place), count in sorted(Counter((answer.exit, answer.place) for answer in answers).items()):
        print(f"  exit {exit_number} on the {place}: {count}")


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/attached")
    asyncio.run(serve(out, build(out)))
