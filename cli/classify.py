"""`branchynet classify`: images to an edge node, answers back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from branchynet.decisions.exits import Criterion
from branchynet.errors import InvalidInput
from branchynet.prediction import Policy, Prediction, ServedModel
from cli.output import JsonOption, console, write_json

if TYPE_CHECKING:
    from branchynet.client import Options

__all__ = ["classify"]


def classify(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Picture files, scaled to the network's input.", exists=True)
    ] = None,
    edge: Annotated[str, typer.Option(envvar="BRANCHYNET_EDGE", help="host:port of the edge node.")] = "127.0.0.1:8001",
    sample: Annotated[
        int, typer.Option(help="Send this many shipped Fashion-MNIST images instead.", min=0, max=1000)
    ] = 0,
    invert: Annotated[bool, typer.Option("--invert", help="Swap black and white, for dark on light drawings.")] = False,
    policy: Annotated[Policy, typer.Option(help="Where the work may be done.")] = Policy.SPLIT,
    criterion: Annotated[Criterion | None, typer.Option(help="With --threshold: replaces the node's rule.")] = None,
    threshold: Annotated[
        list[float] | None, typer.Option(help="One for each exit but the last; repeat the option.")
    ] = None,
    accuracy_target: Annotated[
        float | None,
        typer.Option(
            help="In place of --threshold: the cheapest with at least this accuracy (0..1) on the calibration split."
        ),
    ] = None,
    deadline_ms: Annotated[float, typer.Option(help="All answers come within this time.", min=1)] = 10_000,
    json_file: JsonOption = None,
) -> None:
    """Classify pictures on an edge node; each answer says which exit gave it, where, and what it cost."""
    from branchynet.client import Options
    from branchynet.decisions.exits import ExitRule

    if bool(images) == bool(sample):
        raise InvalidInput("give picture files, or --sample N, and not both")
    if criterion and not threshold:
        raise InvalidInput(f"--criterion {criterion.value} needs a --threshold for each exit but the last")
    rule = ExitRule(criterion or Criterion.ENTROPY, tuple(threshold)) if threshold else None
    options = Options(rule=rule, policy=policy, deadline_ms=deadline_ms, accuracy_target=accuracy_target)
    served, predictions, names = _ask(edge, images, sample, invert, options)
    _print(served, predictions, names)
    answers = [_to_json(served, name, answer) for name, answer in zip(names, predictions, strict=True)]
    write_json(json_file, {"model": served.model, "content_hash": served.content_hash, "answers": answers})


def _ask(
    edge: str, paths: list[Path] | None, sample: int, invert: bool, options: Options
) -> tuple[ServedModel, list[Prediction], list[str]]:
    from branchynet.client import Client
    from branchynet.pictures import read_picture

    with Client(edge) as client:
        served = client.describe()
        if paths:
            names = [path.name for path in paths]
            batch = np.stack([read_picture(path, served.input_shape) for path in paths])
            batch = 255 - batch if invert else batch
        else:
            batch, names = _sample(sample)
        return served, client.classify(batch, **options), names


def _sample(count: int) -> tuple[NDArray[np.uint8], list[str]]:
    from branchynet.training.datasets import load_sample

    dataset = load_sample()
    names = [f"sample {index} ({dataset.classes[label]})" for index, label in enumerate(dataset.labels[:count])]
    return dataset.images[:count], names


def _print(served: ServedModel, predictions: list[Prediction], names: list[str]) -> None:
    table = Table(title=f"{served.model} ({served.content_hash[:12]})")
    for column in ("image", "label", "probability", "exit", "where", "edge ms", "network ms", "cloud ms", "bytes up"):
        table.add_column(column, justify="left" if column in ("image", "label", "where") else "right")
    for name, answer in zip(names, predictions, strict=True):
        table.add_row(
            name,
            served.labels[answer.label],
            f"{answer.probability:.3f}",
            str(answer.exit),
            answer.place.value,
            f"{answer.edge_ms:.2f}",
            f"{answer.network_ms:.2f}",
            f"{answer.cloud_ms:.2f}",
            str(answer.uplink_bytes),
        )
    console.print(table)
    if reasons := {answer.fallback_reason for answer in predictions if answer.fallback_reason}:
        console.print("the edge answered alone where the cloud did not: " + "; ".join(sorted(reasons)))


def _to_json(served: ServedModel, name: str, answer: Prediction) -> dict[str, Any]:
    return {
        "image": name,
        "label": answer.label,
        "class": served.labels[answer.label],
        "probabilities": [round(float(value), 6) for value in answer.probabilities],
        "exit": answer.exit,
        "where": answer.place.value,
        "edge_ms": answer.edge_ms,
        "network_ms": answer.network_ms,
        "cloud_ms": answer.cloud_ms,
        "uplink_bytes": answer.uplink_bytes,
        "fallback_reason": answer.fallback_reason,
    }
