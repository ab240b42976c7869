"""Do risk-controlled rules keep their promise, and what does it cost? Measured on test sets of shipped artifacts.

    python benchmarks/risk_control.py [--draws 300] [--calibration 5000] [--data FOLDER] [--json FILE] [ARTIFACT ...]

The test images are the world here: every draw takes a calibration set from them, chooses rules on it, and looks how
often the true mean loss is above what was tolerated. That happens in two ways, because one finite set is both.

- *replaced*: the calibration set is drawn with replacement. The whole set is then exactly the distribution it was
  drawn from, so the true loss is known without error, and this column is the one to compare with what was allowed.
- *split*: the set is parted, and the loss is taken on the rest. That rest is a sample too, and a contrary one: what
  the calibration part had less of, it has more of. Its noise alone pushes rules over the line, so this column reads
  higher than the promise, which speaks of the distribution and not of one more sample.

*naive* takes the observed loss at its word: the cheapest rule of the path that all calibration samples allow.
*oracle* knows the true losses. Outcomes are measured once and kept in runs/outcomes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from branchynet.artifact.artifact import Artifact
from branchynet.data import datasets
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.confidence_bounds import Bound
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.risk_control import Loss, certified, losses_along, safe_path, split
from branchynet.exits.rules import Criterion

CACHE = Path("runs/outcomes")
ARTIFACTS = ("alexnet-cifar10", "lenet-fashion", "lenet-mnist")
CRITERION = Criterion.ENTROPY
SCORES = ("over_replaced", "over_split", "naive_over", "macs", "naive_macs")

Thresholds = NDArray[np.float64]
# A path [R, E - 1], and each sample's loss [R, N] and the mean cost [R] under its rules.
Candidates = tuple[Thresholds, NDArray[np.int8], NDArray[np.float64]]


@dataclass
class Case:
    """A promise, and what each draw made of it: whether it was broken, and the mean MACs of the rule."""

    loss: Loss
    bound: Bound
    tolerated: float
    confidence: float
    seen: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SCORES})

    def mean(self, name: str) -> float:
        """Mean of *name* over the draws."""
        return float(np.mean(self.seen[name]))

    def choose(self, candidates: Candidates) -> Thresholds:
        """The thresholds, [E - 1], that this promise allows."""
        path, losses, costs = candidates
        p_values = self.bound.p_values(losses, self.loss.least, self.tolerated, self.confidence)
        passed = certified(p_values, self.confidence)
        never = np.full(path.shape[1], CRITERION.never)
        return np.asarray(path[costs[:passed].argmin()]) if passed else never

    def choose_naively(self, candidates: Candidates) -> Thresholds:
        """The cheapest thresholds that the samples show to be good enough."""
        path, losses, costs = candidates
        return np.asarray(path[np.where(losses.mean(axis=1) <= self.tolerated, costs, np.inf).argmin()])


def cases() -> list[Case]:
    """Each loss with its own bound at several promises, and the other bounds at one of them."""
    promises = [(0.002, 0.9), (0.005, 0.9), (0.01, 0.8), (0.01, 0.9), (0.02, 0.95)]
    own = [Case(loss, loss.bound, *promise) for loss in Loss for promise in promises]
    others = [(Loss.ACCURACY_GAP, Bound.HOEFFDING_BENTKUS), (Loss.NEW_ERRORS, Bound.HOEFFDING_BENTKUS),
              (Loss.NEW_ERRORS, Bound.BETTING)]  # fmt: skip
    return own + [Case(loss, bound, 0.01, 0.9) for loss, bound in others]


def outcomes(name: str, data: Path | None) -> OutcomeTable:
    """Outcomes of the artifact *name* on its test set, from the cache if they are there."""
    opened = Artifact.open(name)
    manifest, network = opened.manifest, opened.runner(engine=opened.reference_engine)
    costs = manifest.cost
    kept = CACHE / f"{name}-{manifest.content_hash[:12]}.npz"
    if kept.exists():
        arrays = np.load(kept)
        return OutcomeTable(arrays["logits"], arrays["labels"], costs.macs_by_exit(heads=True))
    table = measure_outcomes(network, costs, datasets.load(manifest.dataset, "test", data, progress=True))
    CACHE.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(kept, logits=table.logits, labels=table.labels)
    return table


def candidates(design: OutcomeTable, test: OutcomeTable, loss: Loss) -> Candidates:
    """The path that *design* draws, and what *test* says of it."""
    path = safe_path(design, CRITERION, loss)
    return path, *losses_along(test, CRITERION, path, loss)


def run_draw(number: int, world: OutcomeTable, tried: list[Case], samples: int) -> None:
    """One calibration set of each kind; every case chooses on it and is judged."""
    generator = np.random.default_rng(number)
    replaced = world.take(generator.integers(0, len(world.labels), samples))
    order = generator.permutation(len(world.labels))
    parted, rest = world.take(order[:samples]), world.take(order[samples:])
    for loss in Loss:
        mine = [case for case in tried if case.loss is loss]
        tested = candidates(*split(replaced, number), loss)
        believed = candidates(replaced, replaced, loss)
        chosen = [case.choose(tested) for case in mine] + [case.choose_naively(believed) for case in mine]
        true, costs = losses_along(world, CRITERION, np.array(chosen), loss)
        tested = candidates(*split(parted, number), loss)
        seen, _ = losses_along(rest, CRITERION, np.array([case.choose(tested) for case in mine]), loss)
        for index, case in enumerate(mine):
            naive = index + len(mine)
            values = {
                "over_replaced": true[index].mean() >= case.tolerated,
                "over_split": seen[index].mean() >= case.tolerated,
                "naive_over": true[naive].mean() >= case.tolerated,
                "macs": costs[index],
                "naive_macs": costs[naive],
            }
            for name, value in values.items():
                case.seen[name].append(float(value))


def oracle_macs(world: OutcomeTable, case: Case) -> float:
    """Mean MACs of the cheapest rule of the world's own path whose true loss is tolerated."""
    _, losses, costs = candidates(world, world, case.loss)
    return float(costs[losses.mean(axis=1) < case.tolerated].min())


def measure(name: str, draws: int, samples: int, data: Path | None, console: Console) -> list[dict[str, Any]]:
    """Run all draws for the artifact *name*, print its table; one entry for each row."""
    world, tried = outcomes(name, data), cases()
    for number in track(range(draws), description=name, console=console, transient=True):
        run_draw(number, world, tried, samples)
    full = world.costs[-1]
    table = Table(title=f"{name}: {draws:,} calibration sets of {samples:,} from {len(world.labels):,} test images; "
                  f"MACs in % of the full network with its heads")  # fmt: skip
    for title in ("loss", "bound", "tolerated %", "allowed %", "replaced %", "split %", "naive %",
                  "MACs", "naive", "oracle"):  # fmt: skip
        table.add_column(title, justify="left" if title in ("loss", "bound") else "right")
    rows = []
    for case in tried:
        row = {"artifact": name, "loss": case.loss.value, "bound": case.bound.value, "tolerated": case.tolerated,
               "allowed": round(1 - case.confidence, 6), "draws": draws, "calibration": samples,
               **{name: case.mean(name) for name in SCORES}, "oracle_macs": oracle_macs(world, case)}  # fmt: skip
        table.add_row(case.loss.value, case.bound.value, f"{100 * case.tolerated:g}", f"{100 * row['allowed']:g}",
                      *(f"{100 * row[key]:.1f}" for key in SCORES[:3]),
                      *(f"{100 * row[key] / full:.1f}" for key in ("macs", "naive_macs", "oracle_macs")))  # fmt: skip
        rows.append(row)
    console.print(table)
    return rows


def main() -> None:
    """Measure, print a table for each artifact, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifacts", nargs="*", default=list(ARTIFACTS))
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--calibration", type=int, default=5_000, help="images in each calibration set")
    parser.add_argument("--data", type=Path, help="folder with the original data files")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    console = Console(width=124)
    rows = [row for name in given.artifacts
            for row in measure(name, given.draws, given.calibration, given.data, console)]  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
