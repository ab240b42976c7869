"""A plan decides where the work of a request is done; on an outcome table it becomes a route for every sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchynet.errors import InvalidInput
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import ExitRule

__all__ = ["Plan", "Routes", "plain_codec", "route"]


def plain_codec(cut: int) -> str:
    """The name of no codec at all: at cut 0 pixels travel as `raw` uint8, at any other cut a feature map as `fp32`."""
    return "fp32" if cut else "raw"


@dataclass(frozen=True, slots=True)
class Plan:
    """The edge runs stages [0, *cut*) and *rule* says who leaves there; the others are offloaded at the cut.

    Cut 0 sends the raw input. With *edge_only* nobody is offloaded: whom the rule keeps, the edge's deepest exit
    answers. A cut behind the last stage sends nothing either. *codec* is the name of what turns the tensor at the cut
    into bytes; unless it is given, it is the cut's `plain_codec`.

    Raises `InvalidInput` for a feature map that is to travel as `raw` pixels.
    """

    cut: int
    rule: ExitRule
    edge_only: bool = False
    codec: str = "fp32"

    def __post_init__(self) -> None:
        if self.cut == 0 and self.codec == "fp32":
            object.__setattr__(self, "codec", plain_codec(0))  # pixels are never sent as floats
        if self.cut != 0 and self.codec == "raw":
            raise InvalidInput(f"codec is 'raw' at cut {self.cut}; only the input, at cut 0, is sent as it came")

    def __str__(self) -> str:
        where = "edge only" if self.edge_only else f"cut {self.cut}, {self.codec}"
        thresholds = "/".join(f"{threshold:.4g}" for threshold in self.rule.thresholds)
        return f"{where}, {self.rule.criterion.value} {thresholds}"

    def check_plain(self) -> None:
        """Raise `InvalidInput` for a plan with a codec, where messages are plain."""
        if self.codec != plain_codec(self.cut):
            raise InvalidInput(
                f"codec is {self.codec!r} at cut {self.cut}; here it can only be {plain_codec(self.cut)!r}"
            )


@dataclass(frozen=True, slots=True)
class Routes:
    """For each of N samples, what happens to it.

    *exits*: int64 [N], the exit that answers. *offloaded*: bool [N]. *edge_stages*: int64 [N], stages [0, x) that the
    edge runs. *cloud_stages*: int64 [N], the cloud runs stages [cut, x); 0 for a sample that stays. *local_exits* and
    *local_stages*: int64 [N], the exit that answers if the cloud does not, and the stages the edge runs up to it.
    """

    exits: NDArray[np.int64]
    offloaded: NDArray[np.bool_]
    edge_stages: NDArray[np.int64]
    cloud_stages: NDArray[np.int64]
    local_exits: NDArray[np.int64]
    local_stages: NDArray[np.int64]


def route(plan: Plan, table: OutcomeTable, exit_stages: tuple[int, ...], held: int) -> Routes:
    """The route of each sample of *table* under *plan*, as the nodes would send it.

    *exit_stages*: the stage that each exit follows, ascending, the last one the network's last stage. *held*: the edge
    has stages [0, held); at least the plan's cut. Without the cloud's answer, a split answers from what it ran before
    the cut, and any other plan runs all that is held.

    Raises `InvalidInput` for a cut the network does not have, or an edge without an exit to answer at.
    """
    stages = exit_stages[-1] + 1
    if not 0 <= plan.cut <= stages:
        raise InvalidInput(f"cut is {plan.cut}; this network has cuts 0 to {stages}")
    if not max(plan.cut, 1) <= held <= stages:
        raise InvalidInput(f"held is {held}; it must be between the cut, {plan.cut}, and {stages}")
    if plan.cut > 0 and not plan.edge_only:
        held = plan.cut
    ends = np.asarray(exit_stages, dtype=np.int64) + 1
    deepest = int(np.searchsorted(ends, held, side="right")) - 1
    if deepest < 0:
        raise InvalidInput(f"stages [0, {held}) have no exit; the first one follows stage {exit_stages[0]}")
    wanted = table.exit_of(plan.rule)
    local_exits = np.minimum(wanted, deepest)
    # Who passes every exit of the edge's half runs all of it, also the stages behind its deepest exit.
    local_stages = np.where(wanted <= deepest, ends[local_exits], held)
    offloaded = (ends[wanted] > plan.cut) & (not plan.edge_only)
    exits = local_exits if plan.edge_only else wanted
    edge_stages = local_stages if plan.edge_only else np.minimum(ends[wanted], plan.cut)
    cloud_stages = np.where(offloaded, ends[wanted], 0)
    return Routes(exits, offloaded, edge_stages, cloud_stages, local_exits, local_stages)
