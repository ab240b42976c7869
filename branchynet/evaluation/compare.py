"""An artifact, its plain trunk and its baselines, timed together and set side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from branchynet.evaluation.baselines import Baseline, baseline_figures
from branchynet.evaluation.evaluation import Evaluated, early_exit_figures, trunk_figures
from branchynet.evaluation.timings import (
    Contender,
    Images,
    Timings,
    early_exit_contenders,
    forced_exit_contenders,
    run_plain,
    time_in_turn,
)
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Engine, Runner

__all__ = ["comparison_figures", "measure_timings"]


def measure_timings(
    evaluated: Evaluated,
    rules: Mapping[str, ExitRule],
    baselines: Sequence[Baseline],
    images: NDArray[np.uint8],
    passes: int,
    engines: Sequence[Engine],
    *,
    by_exit: bool = False,
    on_image: Callable[[int], None] = lambda _: None,
) -> Timings:
    """Time batch 1 over *images*, uint8 [N, C, H, W], *passes* times, everything in turn.

    Contenders, on each of *engines*: `trunk`; the network under each of *rules* by name, with its part
    `without_heads` and, with *by_exit*, `exit_0`, `exit_1`, …: leaving there; each baseline by its kind.
    """
    singles = list(images[:, None])
    contenders: dict[str, dict[str, Contender]] = {}
    for engine in engines:
        network, trunk = evaluated.artifact.runner(engine=engine), evaluated.artifact.trunk(engine)
        here = contenders[engine.value] = {"trunk": partial(_run_one, trunk, singles)}
        for name, rule in rules.items():
            here |= early_exit_contenders(name, network, rule, singles)
            if by_exit:
                here |= forced_exit_contenders(name, network, rule, singles)
        for baseline in baselines:
            here[baseline.kind] = partial(_run_baseline, baseline, baseline.network(engine), trunk, singles)
    return time_in_turn(contenders, len(singles), passes, on_image)


def _run_one(network: Runner, images: Images, index: int) -> object:
    return run_plain(network, images[index])


def _run_baseline(baseline: Baseline, small: Runner, trunk: Runner, images: Images, index: int) -> object:
    return baseline.run(small, trunk, images[index])


def comparison_figures(evaluated: Evaluated, baselines: Sequence[Baseline], timings: Timings) -> dict[str, Any]:
    """Trunk, early exit under the artifact's own rule, and baselines; `docs/reference/json.md` explains the keys."""
    rule, table = evaluated.artifact.manifest.rule, evaluated.table
    early = early_exit_figures(evaluated, rule, timings)
    early["exit_ms"] = timings.exit_ms("early_exit")
    early_right = table.correct[table.exit_of(rule), np.arange(len(table.labels))]
    return {
        "trunk": trunk_figures(evaluated, timings),
        "early_exit": early,
        "baselines": {baseline.kind: baseline_figures(baseline, early_right, early, timings) for baseline in baselines},
        "medians_ms": timings.medians(),
    }
