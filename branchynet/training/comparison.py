"""An artifact, its plain trunk and its yard-sticks, timed together and set side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet import artifact as artifacts
from branchynet.decisions.exits import ExitRule
from branchynet.engine import Engine, Runner
from branchynet.training.evaluation import Evaluated, early_exit_figures, trunk_figures
from branchynet.training.timings import (
    Contender,
    Images,
    Timings,
    early_exit_contenders,
    forced_exit_contenders,
    run_plain,
    time_in_turn,
)
from branchynet.training.yardsticks import Yardstick, yardstick_figures

__all__ = ["compare", "measure_timings"]


def measure_timings(
    evaluated: Evaluated,
    rules: Mapping[str, ExitRule],
    yardsticks: Sequence[Yardstick],
    images: NDArray[np.uint8],
    passes: int,
    engines: Sequence[Engine],
    *,
    by_exit: bool = False,
    on_image: Callable[[int], None] = lambda _: None,
) -> Timings:
    """Time batch 1 over *images*, uint8 [N, C, H, W], *passes* times, everything in turn.

    Contenders, on each of *engines*: `trunk`; the network under each of *rules* by name, with its part
    `without_heads` and, with *by_exit*, `exit_0`, `exit_1`, …: leaving there; each yard-stick by its kind.
    """
    singles = list(images[:, None])
    contenders: dict[str, dict[str, Contender]] = {}
    for engine in engines:
        _, network = artifacts.load_runner(evaluated.folder, engine=engine)
        trunk = artifacts.load_trunk(evaluated.folder, evaluated.manifest, engine=engine)
        here = contenders[engine.value] = {"trunk": partial(_run_one, trunk, singles)}
        for name, rule in rules.items():
            here |= early_exit_contenders(name, network, rule, singles)
            if by_exit:
                here |= forced_exit_contenders(name, network, rule, singles)
        for yardstick in yardsticks:
            here[yardstick.kind] = partial(_run_yardstick, yardstick, yardstick.network(engine), trunk, singles)
    return time_in_turn(contenders, len(singles), passes, on_image)


def _run_one(network: Runner, images: Images, index: int) -> object:
    return run_plain(network, images[index])


def _run_yardstick(yardstick: Yardstick, small: Runner, trunk: Runner, images: Images, index: int) -> object:
    return yardstick.run(small, trunk, images[index])


def compare(evaluated: Evaluated, yardsticks: Sequence[Yardstick], timings: Timings) -> dict[str, Any]:
    """Trunk, early exit under the artifact's own rule, and yard-sticks; `docs/figures.md` explains the keys."""
    rule, table = evaluated.manifest.rule, evaluated.table
    early = early_exit_figures(evaluated, rule, timings)
    early["exit_ms"] = timings.exit_ms("early_exit")
    early_right = table.correct[table.exit_of(rule), np.arange(len(table.labels))]
    return {
        "trunk": trunk_figures(evaluated, timings),
        "early_exit": early,
        "yardsticks": {
            yardstick.kind: yardstick_figures(yardstick, early_right, early, timings) for yardstick in yardsticks
        },
        "medians_ms": timings.medians(),
    }
