"""Do requests with an accuracy target get that accuracy? Operating points on the calibration split and on the test set.

    python benchmarks/operating_points.py [ARTIFACT …] [--data FOLDER]

For each artifact a line for each target, half a point apart, and one for the best there is: what the manifest says of
the point that the target gets, and what its thresholds do on the test set, which chose nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from branchynet.artifact import zoo
from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import load
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.operating_points import point_for
from branchynet.exits.outcomes import wilson_interval

APART = 0.005


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Artifacts; all that are shipped if not given.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the data sets.", envvar="BRANCHYNET_DATA")] = None,
) -> None:
    """Print a table."""
    table = Table(title="accuracy targets: thresholds as chosen on the calibration split, judged on the test set")
    for heading in ("artifact", "target %", "calibrated %", "test % (95 % interval)", "M MACs", "on test images"):
        table.add_column(heading, justify="left" if heading == "artifact" else "right", no_wrap=True)
    for name in names or zoo.shipped():
        opened = Artifact.open(name)
        manifest, network = opened.manifest, opened.runner(engine=opened.reference_engine)
        outcomes = measure_outcomes(network, manifest.cost, load(manifest.dataset, "test", data))
        points = opened.operating_points
        best = points[-1].accuracy
        lowest = np.ceil(points[0].accuracy / APART) * APART
        for target in (*np.arange(lowest, best, APART).tolist(), best):
            point = point_for(points, target)
            found = outcomes.apply(manifest.rule.with_thresholds(point.thresholds))
            low, high = wilson_interval(found.accuracy, len(outcomes.labels))
            table.add_row(
                name,
                f"{100 * target:.2f}",
                f"{100 * point.accuracy:.2f}",
                f"{100 * found.accuracy:.2f} ({100 * low:.2f} – {100 * high:.2f})",
                f"{point.macs / 1e6:.3f}",
                f"{found.cost / 1e6:.3f}",
            )
        table.add_section()
    Console(width=130).print(table)


if __name__ == "__main__":
    typer.run(main)
