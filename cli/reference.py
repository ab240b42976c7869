"""`branchynet reference`: record beside an artifact's rule what its nodes go by while they serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.output import ArtifactOption, DataOption, console

__all__ = ["reference"]


def reference(
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a copy; the artifact's own if not given.", file_okay=False)
    ] = None,
) -> None:
    """Record, from the held-out training images, what nodes go by while they serve.

    That is the scores at each exit under the artifact's rule, which an edge compares with to notice drift; the range of
    each channel at each cut, for calibrated codecs; and operating points, thresholds with the accuracy they have on
    those images, for requests with an accuracy target. Rule, weights and results stay as they are. `branchynet train`
    does this itself.
    """
    from branchynet.reference import points_of
    from branchynet.training.assembly import record_reference

    folder, manifest = record_reference(artifact, data, out)
    ranges = ", ".join(f"cut {cut}: {len(fixed.low)}" for cut, fixed in sorted(manifest.codec_ranges.items()))
    console.print(f"ranges of channels: {ranges or 'none, there is only one stage'}")
    points = points_of(manifest)
    console.print(
        f"operating points: {len(points)}, of accuracy {points[0].accuracy:.4f} to {points[-1].accuracy:.4f} on the "
        "calibration split"
    )
    console.print(f"written: {folder}", soft_wrap=True)
