"""A program that `torch.export.save` wrote, as a module whose submodules have the names they had.

Loading one may run code that its writer put in, like a Python file.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from branchynet.errors import BranchyNetError, DamagedData, InvalidInput
from branchynet.network.foreign_code import in_words

__all__ = ["load_program"]


def load_program(file: Path) -> tuple[nn.Module, tuple[int, int, int]]:
    """The module in *file*, and the shape [C, H, W] of the images that it takes.

    Raises `InvalidInput` for a program that does not go from one batch of images, of any size, to one tensor;
    `DamagedData` for a file that holds none.
    """
    if not file.is_file():
        raise InvalidInput(f"there is no file {file}")
    try:
        program = torch.export.load(file)
    except (BranchyNetError, MemoryError):
        raise
    except Exception as error:  # torch has no type for it: whatever its zip, JSON and pickle readers raise
        raise DamagedData(f"{file} holds no program of torch.export: {in_words(error)}") from error
    shape = _input_shape(program, file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own use of what it deprecates
        return torch.export.unflatten(program), shape


def _input_shape(program: ExportedProgram, file: Path) -> tuple[int, int, int]:
    signature = program.graph_signature
    taken, given = _tensors(program, signature.user_inputs), signature.user_outputs
    if len(taken) != 1 or len(signature.user_inputs) != 1 or len(given) != 1:
        raise InvalidInput(
            f"{file} goes from {', '.join(map(str, signature.user_inputs))} to {', '.join(map(str, given))}; "
            "it must go from one tensor to one"
        )
    [images] = taken
    batch, *sides = images.shape
    if images.dtype is not torch.float32 or len(sides) != 3 or not all(isinstance(side, int) for side in sides):
        raise InvalidInput(
            f"{file} takes {str(images.dtype).removeprefix('torch.')} {list(images.shape)}; it must take float32 "
            "[batch, C, H, W] of images of one size"
        )
    if isinstance(batch, int):
        raise InvalidInput(
            f"{file} was exported for batches of {batch} images; export it for any: torch.export.export(model, "
            '(images,), dynamic_shapes=({0: torch.export.Dim("batch")},)), with two images or more'
        )
    channels, height, width = sides
    return channels, height, width


def _tensors(program: ExportedProgram, names: Any) -> list[Tensor]:
    found = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    return [value for name in names if isinstance(value := found.get(name), Tensor)]
