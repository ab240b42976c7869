"""An edge node as on a slower machine, to measure by: `python -m orchestrator.weak_edge --times 10 FLAGS OF AN EDGE`.

It does whatever it computes, stages and codecs alike, over and over on its compute thread until that has taken ten
times as long as the first time; answers are those of any edge. (Ten times over would take less: the layers find their
weights in the cache from the second time on.) A limit on the CPU's time would not do: it takes effect by periods of
many milliseconds, in which a stage of one millisecond runs at full speed or not at all. What gRPC and the event loop do
is as fast as ever.

With `--as-profiled PLANS` in place of `--times` it waits after each stage until that has taken what the profile in the
plan file says: as exact as the clock, and it leaves the machine to others; but codecs take what they take.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from branchynet.decisions.timing import ServingProfile
from branchynet.engine import Array, Runner
from branchynet.plan_file import read_plan_file
from branchynet.worker import Timed, Worker
from edge_node.__main__ import main as edge_main
from edge_node.node import EdgeNode

__all__ = ["PacedRunner", "RepeatingWorker", "main"]

P = ParamSpec("P")
R = TypeVar("R")


class PacedRunner(Runner):
    """*runner* on a device that takes as long for each stage as the edge of *profile*, and no less."""

    def __init__(self, runner: Runner, profile: ServingProfile) -> None:
        super().__init__(
            input_shape=runner.input_shape,
            classes=runner.classes,
            exit_of_stage=runner.exit_of_stage,
            first=runner.first,
            last=runner.last,
        )
        self._runner, self._profile = runner, profile

    def run(self, index: int, x: Array) -> tuple[Array, NDArray[np.float32] | None]:
        """See `Runner`."""
        until_s = time.perf_counter() + self._profile.edge.stage_ms(index, len(x)) / 1e3
        done = self._runner.run(index, x)
        time.sleep(max(until_s - time.perf_counter(), 0.0))
        return done

    def without_branches(self) -> Runner:
        """See `Runner`."""
        return PacedRunner(self._runner.without_branches(), self._profile)


class RepeatingWorker(Worker):
    """A worker that makes every call until it took *times* as long as the first time, and gives the last result."""

    def __init__(self, name: str, times: float) -> None:
        super().__init__(name)
        self._times = times

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Timed[R]:
        """See `Worker`; it took what all the calls took."""

        def again() -> R:
            started_s = time.perf_counter()
            value = call(*args, **kwargs)
            enough_s = started_s + self._times * (time.perf_counter() - started_s)
            while time.perf_counter() < enough_s:
                value = call(*args, **kwargs)
            return value

        return await super().run(again)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.weak_edge", allow_abbrev=False)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--times", type=float, metavar="N", help="take so many times as long")
    how.add_argument("--as-profiled", type=Path, metavar="PLANS", help="take what this plan file's profile says")
    given, rest = parser.parse_known_args(argv)
    if given.as_profiled is not None:
        return edge_main(rest, parser.prog, lambda node: _pace(node, given.as_profiled))
    if not 1 <= given.times < math.inf:
        parser.error(f"--times is {given.times:g}; it must be 1 or more")
    return edge_main(rest, parser.prog, lambda node: node.compute_on(RepeatingWorker("edge-compute", given.times)))


def _pace(node: EdgeNode, plans: Path) -> None:
    profile = read_plan_file(plans).profile
    node.compute_with(lambda runner: PacedRunner(runner, profile))


if __name__ == "__main__":
    sys.exit(main())
