"""An edge node as on a slower machine, to measure by: `python -m orchestrator.weak_edge --times 10 FLAGS OF AN EDGE`.

It does whatever it computes, stages and codecs alike, ten times over on its compute thread; answers are those of any
edge. A limit on the CPU's time would not do: it takes effect by periods of many milliseconds, so that a stage of one
millisecond runs at full speed or waits a whole period. What gRPC and the event loop do is as fast as ever.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from branchynet.worker import Timed, Worker
from edge_node.__main__ import main as edge_main
from edge_node.node import EdgeNode

__all__ = ["RepeatingWorker", "main"]

P = ParamSpec("P")
R = TypeVar("R")


class RepeatingWorker(Worker):
    """A worker that makes every call *times* times and gives the last result."""

    def __init__(self, name: str, times: int) -> None:
        super().__init__(name)
        self._times = times

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Timed[R]:
        """See `Worker`; the time of all calls is the time it took."""

        def again() -> R:
            for _ in range(self._times - 1):
                call(*args, **kwargs)
            return call(*args, **kwargs)

        return await super().run(again)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.weak_edge", allow_abbrev=False)
    parser.add_argument("--times", type=int, required=True, metavar="N", help="do everything so many times")
    given, rest = parser.parse_known_args(argv)
    if given.times < 1:
        parser.error(f"--times is {given.times}; it must be at least 1")

    def prepare(node: EdgeNode) -> None:
        node.compute_on(RepeatingWorker("edge-compute", given.times))

    return edge_main(rest, parser.prog, prepare)


if __name__ == "__main__":
    sys.exit(main())
