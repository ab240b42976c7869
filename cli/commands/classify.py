"""`branchynet classify`: images to an edge node, answers back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.rules import Criterion
from branchynet.serving.prediction import Policy, Prediction, ServedModel
from cli.options import JsonOption, checked_address, colour, progress_bar, write_json
from cli.tables.answers import answers_json, print_answers

if TYPE_CHECKING:
    from branchynet.client.client import Options
    from branchynet.data.image_folder.found import Picture

__all__ = ["classify"]

# Pictures of a folder in one call, which the deadline is for.
PART = 64


def classify(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Image files, and folders to search for them; turned upright and resized as the artifact says.",
            exists=True,
        ),
    ] = None,
    edge: Annotated[
        str, typer.Option(envvar="BRANCHYNET_EDGE", help="host:port of the edge node.", callback=checked_address)
    ] = "127.0.0.1:8001",
    sample: Annotated[
        int, typer.Option(help="Send this many shipped Fashion-MNIST images instead.", min=0, max=1000)
    ] = 0,
    invert: Annotated[bool, typer.Option("--invert", help="Swap black and white, for dark on light drawings.")] = False,
    ground: Annotated[
        str | None, typer.Option(help="What is behind clear pixels, as white or #204080; the artifact's unless given.")
    ] = None,
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
    deadline_ms: Annotated[
        float, typer.Option(help="All answers come within this time; from folders, each 64.", min=1)
    ] = 10_000,
    json_file: JsonOption = None,
) -> None:
    """Classify images on an edge node; each answer names its exit, its place, and what it cost."""
    from branchynet.client.client import Options
    from branchynet.exits.rules import ExitRule

    if bool(images) == bool(sample):
        raise InvalidInput("give image files, or --sample N, and not both")
    if criterion and not threshold:
        raise InvalidInput(f"--criterion {criterion.value} needs a --threshold for each exit but the last")
    if sample and (invert or ground):
        raise InvalidInput("--invert and --ground are for image files, not for --sample")
    rule = ExitRule(criterion or Criterion.ENTROPY, tuple(threshold)) if threshold else None
    options = Options(rule=rule, policy=policy, deadline_ms=deadline_ms, accuracy_target=accuracy_target)
    sent, predictions = _ask(edge, images or [], sample, invert, colour(ground) if ground else None, options)
    found = (sent.served, predictions, sent.names, sent.expected)
    told = {"model": sent.served.model, "content_hash": sent.served.content_hash}
    write_json(json_file, {**told, "answers": answers_json(*found)})
    print_answers(*found)


class _Sent(NamedTuple):
    """What is sent to an edge: uint8 [N, C, H, W], the name of each image, and its class where it is known."""

    served: ServedModel
    images: NDArray[np.uint8]
    names: list[str]
    expected: list[str | None]
    parts: int


def _ask(
    edge: str, paths: list[Path], sample: int, invert: bool, ground: tuple[int, int, int] | None, options: Options
) -> tuple[_Sent, list[Prediction]]:
    from branchynet.client.client import Client

    with Client(edge) as client:
        served = client.describe()
        if ground is not None:
            served = replace(served, preprocessing=replace(served.preprocessing, ground=ground))
        sent = _files(paths, served) if paths else _sample(sample, served)
        images = 255 - sent.images if invert else sent.images
        answers: list[Prediction] = []
        with progress_bar() as bar:
            task = bar.add_task("classifying", total=len(images), note="")
            for start in range(0, len(images), sent.parts):
                answers += client.classify(images[start : start + sent.parts], **options)
                bar.update(task, completed=len(answers))
        return sent, answers


def _files(paths: list[Path], served: ServedModel) -> _Sent:
    """Files as they were given, and what is found in folders; a file that was named must be readable."""
    from branchynet.client.images import Batch

    pixels: list[NDArray[np.uint8]] = []
    names: list[str] = []
    expected: list[str | None] = []
    for path in paths:
        if path.is_dir():
            more, found = _folder(path, served)
            names += [picture.name for picture in found]
            expected += [picture.label if picture.label in served.labels else None for picture in found]
        else:
            more = Batch([path]).to_array(served)
            names.append(path.name)
            expected.append(None)
        pixels.append(more)
    whole = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
    return _Sent(served, whole, names, expected, PART if any(path.is_dir() for path in paths) else len(whole))


def _folder(path: Path, served: ServedModel) -> tuple[NDArray[np.uint8], list[Picture]]:
    """The pictures at *path* that can be read, with whatever labels they have."""
    from branchynet.data.image_folder.own_images import OwnImages

    own = OwnImages.at(path, "test", served.input_shape, served.preprocessing, served.labels, progress=True)
    dataset, numbers = own.decoded("test", range(len(own.digests)), labelled=False)
    return dataset.images, [own.found.pictures[number] for number in numbers]


def _sample(count: int, served: ServedModel) -> _Sent:
    from branchynet.data.datasets import load_sample

    dataset = load_sample()
    words = [dataset.classes[label] for label in dataset.labels[:count]]
    names = [f"sample {index} ({word})" for index, word in enumerate(words)]
    expected = [word if word in served.labels else None for word in words]
    return _Sent(served, dataset.images[:count], names, expected, count)
