"""A network that comes as graphs, without the code of its layers: what is told about it instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from branchynet.errors import InvalidInput
from branchynet.network import BranchyNet
from branchynet.profile import NetworkCost, StageCost, measure_cost

__all__ = ["ExportedArchitecture", "ExportedFile"]


class _StageFile(TypedDict):
    exit: int | None
    output_shape: list[int]
    trunk_macs: int
    head_macs: int
    trunk_params: int
    head_params: int


@final
class ExportedFile(TypedDict):
    """An `ExportedArchitecture` in a manifest."""

    name: str
    classes: int
    input_shape: list[int]
    stages: list[_StageFile]


@dataclass(frozen=True, slots=True)
class ExportedArchitecture:
    """What an `Architecture` would tell: *name*, *classes*, *input_shape* (channels, height, width), and the *cost*.

    Raises `InvalidInput` for what no network can be.
    """

    name: str
    classes: int
    input_shape: tuple[int, int, int]
    cost: NetworkCost

    def __post_init__(self) -> None:
        numbers = [number for number in self.cost.exit_of_stage if number is not None]
        if not numbers or numbers != list(range(len(numbers))) or self.cost.exit_of_stage[-1] is None:
            raise InvalidInput(f"exits are {self.cost.exit_of_stage}; they count from 0 up to one after the last stage")
        if self.classes < 2:
            raise InvalidInput(f"classes is {self.classes}; a classifier needs at least 2")
        for shape in (self.input_shape, *(stage.output_shape for stage in self.cost.stages)):
            if not shape or min(shape) < 1:
                raise InvalidInput(f"a tensor cannot have the shape {shape}")

    @classmethod
    def of(cls, name: str, network: BranchyNet) -> ExportedArchitecture:
        """The description of a whole *network*, by the *name* of its architecture."""
        return cls(name, network.classes, network.input_shape, measure_cost(network))

    def to_json(self) -> ExportedFile:
        """For the manifest."""
        return {
            "name": self.name,
            "classes": self.classes,
            "input_shape": list(self.input_shape),
            "stages": [
                {
                    "exit": number,
                    "output_shape": list(stage.output_shape),
                    "trunk_macs": stage.trunk_macs,
                    "head_macs": stage.head_macs,
                    "trunk_params": stage.trunk_params,
                    "head_params": stage.head_params,
                }
                for stage, number in zip(self.cost.stages, self.cost.exit_of_stage, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, raw: ExportedFile) -> ExportedArchitecture:
        """Of what `to_json` wrote; `InvalidInput` for what no network can be."""
        sides: tuple[Any, ...] = tuple(raw["input_shape"])
        if len(sides) != 3:
            raise InvalidInput(f"input_shape is {raw['input_shape']}; it must be channels, height and width")
        stages = tuple(
            StageCost(
                stage["trunk_macs"],
                stage["head_macs"],
                stage["trunk_params"],
                stage["head_params"],
                tuple(stage["output_shape"]),
            )
            for stage in raw["stages"]
        )
        cost = NetworkCost(stages, tuple(stage["exit"] for stage in raw["stages"]))
        return cls(raw["name"], raw["classes"], sides, cost)
