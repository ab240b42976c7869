"""The options of `branchynet attach`, and what they say about a model where its source says it already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from branchynet.data.preprocessing import Interpolation, Preprocessing, Resize
from branchynet.errors import InvalidInput
from cli.options import colour

if TYPE_CHECKING:
    from branchynet.network.normalisation import Normalisation
    from branchynet.surgery.model_sources import FoundModel, Training

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="FILE.py:CALLABLE, a function or class without arguments; FILE.pt2 of torch.export; FILE.onnx; timm:NAME; "
        "torchvision:NAME.",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="State dict for the model (.pt, .pth, .safetensors); timm and torchvision download theirs unless given.",
        dir_okay=False,
    ),
]
PrecisionOption = Annotated[
    Literal["fp32", "fp16", "int8"],
    typer.Option(help="How weights lie on disk: fp16 halves the artifact, int8 (a scale a row) quarters it."),
]
AfterOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Submodule (tensor of an ONNX file) that an exit follows; repeat it. Without: chosen by MACs and bytes, "
        "or listed."
    ),
]
ExitsOption = Annotated[int, typer.Option(help="How many exits to put where --after does not say it.", min=1)]
NewClassifierOption = Annotated[
    bool,
    typer.Option(
        "--new-classifier", help="Train a fresh last layer for the classes of the images; for pretrained models."
    ),
]
DatasetOption = Annotated[
    str | None, typer.Option(help="mnist, fashion-mnist or cifar10; your own pictures in --data unless given.")
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder of the artifact; without it the places to cut are listed.", file_okay=False)
]
NameOption = Annotated[str | None, typer.Option(help="Name of the artifact; that of its folder unless given.")]
EpochsOption = Annotated[int, typer.Option(help="Passes over the training images.", min=1)]
JointOption = Annotated[bool, typer.Option("--joint", help="Train the whole model with its exits, not the exits only.")]
HeldOutOption = Annotated[
    int | None, typer.Option(help="Training images held out; 5000, or a fifth of your own, unless given.", min=1)
]
DropOption = Annotated[
    float, typer.Option(help="Percentage points of accuracy that may be lost to the final exit.", min=0.0, max=100.0)
]
SeedOption = Annotated[int, typer.Option(help="Of the held-out split and the order of images.", min=0)]
ResizeOption = Annotated[
    Resize | None,
    typer.Option(help="What becomes of image files in another proportion than the model's; as it was trained."),
]
InterpolationOption = Annotated[Interpolation | None, typer.Option(help="How image files are resized.")]
GroundOption = Annotated[str, typer.Option(help="What is behind clear pixels and around padded images, as #204080.")]
SizeOption = Annotated[
    str | None,
    typer.Option(help="Side of its input in pixels, or HxW, for pictures of your own; its own, or 224, unless given."),
]
MomentsOption = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B", help="By which its input was normalised in training; its own, or the images', unless given."
    ),
]


def preprocessing_for(
    trained: Training | None, resize: Resize | None, interpolation: Interpolation | None, ground: str
) -> Preprocessing:
    """How image files are brought to the model: as the options say, else as it was *trained*."""
    known = trained.preprocessing if trained else Preprocessing()
    chosen = resize or known.resize
    return Preprocessing(
        chosen,
        interpolation or known.interpolation,
        colour(ground),
        known.crop_share if chosen is Resize.CROP is known.resize else 1.0,
    )


def size_for(found: FoundModel, dataset: str | None, size: str | None) -> str | None:
    """What --size is, or would be for pictures of one's own, if the model's source knows it.

    Raises `InvalidInput` for another one than the only one that it takes.
    """
    known = found.input_shape or (found.trained.input_shape if found.trained else None)
    if dataset is not None or known is None:
        return size
    _, height, width = known
    own = f"{height}x{width}"
    if found.input_shape is not None and size not in (None, own, *([str(height)] if height == width else [])):
        raise InvalidInput(f"--size is {size}; the model was exported for images of {own}")
    return size or own


def normalisation_for(
    trained: Training | None, mean: str | None, std: str | None, channels: int
) -> Normalisation | None:
    """The one given by --mean and --std, one value for all channels or one each; else that of the training, if known.

    Raises `InvalidInput` for what is none.
    """
    from branchynet.network.normalisation import Normalisation

    if mean is None and std is None:
        return trained.normalisation if trained and len(trained.normalisation.mean) == channels else None
    if mean is None or std is None:
        raise InvalidInput(f"--mean is {mean} and --std {std}; give both or neither")
    values = []
    for option, text in (("--mean", mean), ("--std", std)):
        try:
            parts = [float(part) for part in text.split(",")]
        except ValueError:
            raise InvalidInput(f"{option} is {text!r}; it must be numbers, as 0.485,0.456,0.406") from None
        parts = parts * channels if len(parts) == 1 else parts
        if len(parts) != channels or not all(0 <= part <= 1 for part in parts) or (option == "--std" and 0 in parts):
            raise InvalidInput(f"{option} is {text}; it must be {channels} numbers 0 to 1, for pixels scaled to 0..1")
        values.append(tuple(parts))
    return Normalisation(*values)
