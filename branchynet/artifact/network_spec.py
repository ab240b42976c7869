"""What a manifest knows of its network without any of its layers: shapes, exits and costs, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, final

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from branchynet.errors import InvalidInput
from branchynet.network.costs import NetworkCost, StageCost

__all__ = ["ArchitectureEntry", "NetworkSpec", "StageEntry"]


@final
class ArchitectureEntry(TypedDict):
    """The network as a whole, in a manifest's file."""

    name: str
    variant: NotRequired[str]
    classes: int
    input_shape: list[int]


@final
class StageEntry(TypedDict):
    """One stage of it: a `StageCost`, and the number of the exit after it."""

    exit: int | None
    output_shape: list[int]
    trunk_macs: int
    head_macs: int
    trunk_params: int
    head_params: int


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network's *name*, *classes*, *input_shape* (channels, height, width) and *cost*.

    *variant*: that of the architecture of ours with this *name*, from which torch can build the layers anew. None: the
    layers are known as ONNX graphs only. Raises `InvalidInput` for what no network can be.
    """

    name: str
    classes: int
    input_shape: tuple[int, int, int]
    cost: NetworkCost
    variant: str | None = None

    def __post_init__(self) -> None:
        numbers = [number for number in self.cost.exit_of_stage if number is not None]
        if not numbers or numbers != list(range(len(numbers))) or self.cost.exit_of_stage[-1] is None:
            raise InvalidInput(f"exits are {self.cost.exit_of_stage}; they count from 0 up to one after the last stage")
        if self.classes < 2:
            raise InvalidInput(f"classes is {self.classes}; a classifier needs at least 2")
        if len(self.input_shape) != 3:
            raise InvalidInput(f"input_shape is {self.input_shape}; it must be channels, height and width")
        for shape in (self.input_shape, *(stage.output_shape for stage in self.cost.stages)):
            if not shape or min(shape) < 1:
                raise InvalidInput(f"a tensor cannot have the shape {shape}")

    @property
    def stages(self) -> int:
        """Number of stages of the whole network."""
        return len(self.cost.stages)

    @property
    def cut_shapes(self) -> list[tuple[int, ...]]:
        """Shape of one sample's tensor at each cut 0 … n-1; at cut 0 it is the image's."""
        return [self.input_shape, *(stage.output_shape for stage in self.cost.stages[:-1])]

    def architecture_entry(self) -> ArchitectureEntry:
        """The whole, for the manifest's file."""
        entry: ArchitectureEntry = {
            "name": self.name,
            "classes": self.classes,
            "input_shape": list(self.input_shape),
        }
        if self.variant is not None:
            entry["variant"] = self.variant
        return entry

    def stage_entries(self) -> list[StageEntry]:
        """The stages, for the manifest's file."""
        return [
            {
                "exit": number,
                "output_shape": list(stage.output_shape),
                "trunk_macs": stage.trunk_macs,
                "head_macs": stage.head_macs,
                "trunk_params": stage.trunk_params,
                "head_params": stage.head_params,
            }
            for stage, number in zip(self.cost.stages, self.cost.exit_of_stage, strict=True)
        ]

    @classmethod
    def from_entries(cls, whole: ArchitectureEntry, stages: list[StageEntry]) -> NetworkSpec:
        """The network in a manifest's file; `InvalidInput` for what no network can be."""
        costs = tuple(
            StageCost(
                stage["trunk_macs"],
                stage["head_macs"],
                stage["trunk_params"],
                stage["head_params"],
                tuple(stage["output_shape"]),
            )
            for stage in stages
        )
        cost = NetworkCost(costs, tuple(stage["exit"] for stage in stages))
        shape: tuple[int, int, int] = tuple(whole["input_shape"])  # type: ignore[assignment]
        return cls(whole["name"], whole["classes"], shape, cost, whole.get("variant"))
