"""`branchynet calibrate`: choose thresholds on held-out training images."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from branchynet.errors import InvalidInput
from branchynet.exits.paired_tests import difference_points
from branchynet.exits.risk_control import Loss
from branchynet.exits.rules import LOGIT_CRITERIA, Criterion
from cli.options import ArtifactOption, DataOption, JsonOption, console, printing_after, write_json
from cli.tables.guarantee import ConfidenceOption, LossOption, ToleratedLossOption, print_difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from branchynet.artifact.artifact import Artifact
    from branchynet.artifact.manifest import Manifest
    from branchynet.exits.outcomes import OutcomeTable, RuleResult

__all__ = ["calibrate"]

SHOWN_RULES = 12


CriterionOption = Annotated[Criterion, typer.Option(help="How confidence is scored.")]
TemperatureOption = Annotated[
    bool, typer.Option("--temperature", help="Fit a temperature for each exit, which becomes part of the rule.")
]
DropOption = Annotated[
    float, typer.Option(help="Percentage points of accuracy that may be lost to the final exit.", min=0.0, max=100.0)
]
MacsOption = Annotated[float | None, typer.Option(help="Instead: mean MACs per image that may be spent.", min=0)]
MsOption = Annotated[
    float | None, typer.Option(help="Instead: mean ms per image; needs --stage-ms or --profile.", min=0)
]
StageMsOption = Annotated[str | None, typer.Option(help="ms of each stage with its exit: 0.4,0.9,1.1.")]
ProfileOption = Annotated[
    Path | None, typer.Option(help="profile.json of `branchynet profile` or `simulate`.", exists=True, dir_okay=False)
]
UplinkOption = Annotated[
    float | None, typer.Option(help="With --profile: split at the artifact's cut. Without: all of it runs on the edge.")
]
RttOption = Annotated[float, typer.Option(help="With --uplink-mbps: the round trip.", min=0)]
FixOption = Annotated[
    list[str] | None, typer.Option(help="EXIT=THRESHOLD that is given; the others are searched. Repeatable.")
]
FrontierOption = Annotated[bool, typer.Option("--frontier", help="Print every rule that no other one beats.")]
PlotOption = Annotated[Path | None, typer.Option(help="Draw the frontier into this file (.png).", dir_okay=False)]
KeepOption = Annotated[
    bool,
    typer.Option(
        "--keep-rule",
        help="Keep the rule; record what nodes go by: drift scores, channel ranges, operating points.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder for a copy of the artifact with that rule.", file_okay=False)
]


def calibrate(
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    criterion: CriterionOption = Criterion.ENTROPY,
    temperature: TemperatureOption = False,
    accuracy_drop: DropOption = 0.1,
    tolerated_loss: ToleratedLossOption = None,
    confidence: ConfidenceOption = 0.9,
    loss: LossOption = Loss.ACCURACY_GAP,
    macs: MacsOption = None,
    ms: MsOption = None,
    stage_ms: StageMsOption = None,
    profile: ProfileOption = None,
    uplink_mbps: UplinkOption = None,
    rtt_ms: RttOption = 0.0,
    fix: FixOption = None,
    frontier: FrontierOption = False,
    keep_rule: KeepOption = False,
    plot: PlotOption = None,
    out: OutOption = None,
    json_file: JsonOption = None,
) -> None:
    """Choose thresholds on the artifact's calibration split, which was held out from training; never on test data.

    Prints the frontier of accuracy against cost and the rule chosen on it: the cheapest within --accuracy-drop, or
    the most accurate within --macs or --ms, or the cheapest that is proved to lose less than --tolerated-loss.

    --keep-rule chooses nothing: it records in the artifact (or its copy in --out) the scores at each exit, by which
    an edge notices drift, the range of each channel at each cut, for calibrated codecs, and operating points, for
    requests with an accuracy target. `branchynet train` does this itself.
    """
    from branchynet.artifact.artifact import Artifact
    from branchynet.evaluation.calibrate import calibration_table, copy_with_rule
    from branchynet.evaluation.criteria import candidate_name
    from branchynet.evaluation.fit import fit_rule
    from branchynet.exits.threshold_search import frontier as search

    opened, fixed = Artifact.open(artifact), _fixed(fix or [])
    if keep_rule:
        _check_nothing_else(temperature, tolerated_loss, macs, ms, fix, frontier, plot, json_file)
        _record_reference(opened, data, out)
        return
    if macs is not None and ms is not None:
        raise InvalidInput("--macs and --ms are both given; there is one budget")
    if tolerated_loss is not None:
        _check_alone(temperature, macs, ms, fix, frontier, plot)
        _guarantee(opened, data, criterion, tolerated_loss, confidence, loss, out, json_file)
        return
    costs = None if ms is None else _ms_by_exit(opened.manifest, stage_ms, profile, uplink_mbps, rtt_ms)
    manifest, table = opened.manifest, calibration_table(opened, data)
    priced, unit = (table, "MACs") if costs is None else (replace(table, costs=costs), "ms")
    front = search(priced, fit_rule(table, criterion, tempered=temperature), fixed)
    chosen = _choose(front, table, accuracy_drop, macs if ms is None else ms)
    title = f"{manifest.name}, {candidate_name(criterion, temperature)}: {len(table.labels):,} held-out training images"
    write_json(json_file, _figures(manifest.name, table, chosen, front if frontier else [], unit))
    with printing_after(lambda: _print(front, chosen, unit, title, priced, whole=frontier)):
        if out is not None:
            copy_with_rule(opened, out, table, chosen.rule)
        _draw(front, chosen, unit, plot, title)
    _print_written(drawn=plot, written=out)


def _print_written(**files: Path | None) -> None:
    for what, path in files.items():
        if path is not None:
            console.print(f"{what}: {path}", soft_wrap=True)


def _draw(front: list[RuleResult], chosen: RuleResult, unit: str, plot: Path | None, title: str) -> None:
    if plot is not None:
        from cli.plots.calibration import draw_frontier

        draw_frontier(front, chosen, unit, plot, title)


def _check_nothing_else(*others: object) -> None:
    """Refuse options that would choose a rule beside --keep-rule."""
    if any(other not in (None, False) for other in others):
        raise InvalidInput("--keep-rule chooses no rule; it goes with --artifact, --data and --out only")


def _record_reference(artifact: Artifact, data: Path | None, out: Path | None) -> None:
    """Record what nodes go by under the rule that *artifact* has."""
    from branchynet.evaluation.calibrate import record_reference

    recorded = record_reference(artifact, data, out)
    ranges = ", ".join(f"cut {cut}: {len(fixed.low)}" for cut, fixed in sorted(recorded.manifest.codec_ranges.items()))
    console.print(f"ranges of channels: {ranges or 'none, there is only one stage'}")
    points = recorded.operating_points
    console.print(
        f"operating points: {len(points)}, of accuracy {points[0].accuracy:.4f} to {points[-1].accuracy:.4f} on the "
        "calibration split"
    )
    console.print(f"written: {recorded.folder}", soft_wrap=True)


def _check_alone(*others: object) -> None:
    """Refuse options that do not go with --tolerated-loss."""
    if any(other not in (None, False) for other in others):
        raise InvalidInput(
            "--tolerated-loss goes with --criterion, --confidence, --loss, --out and --json only; "
            "temperatures and gates, which are fitted on the calibration images, would void the guarantee"
        )


def _guarantee(
    artifact: Artifact,
    data: Path | None,
    criterion: Criterion,
    tolerated_loss: float,
    confidence: float,
    loss: Loss,
    out: Path | None,
    json_file: Path | None,
) -> None:
    """Choose by proof instead of by screening."""
    from branchynet.evaluation.calibrate import calibration_table, copy_with_rule
    from branchynet.exits.risk_control import control_risk
    from cli.tables.guarantee import guarantee_figures, print_guarantee

    if criterion not in LOGIT_CRITERIA:
        raise InvalidInput(
            f"--tolerated-loss with criterion {criterion.value}: only {', '.join(LOGIT_CRITERIA)} will do"
        )
    name, table = artifact.manifest.name, calibration_table(artifact, data)
    found = control_risk(table, criterion, tolerated_loss, confidence, loss)
    write_json(json_file, guarantee_figures(name, found))
    with printing_after(lambda: print_guarantee(name, found)):
        if out is not None:
            copy_with_rule(artifact, out, table, found.rule, found)
    _print_written(written=out)


def _figures(name: str, table: OutcomeTable, chosen: RuleResult, listed: list[RuleResult], unit: str) -> dict[str, Any]:
    figures: dict[str, Any] = {"ms": chosen.cost} if unit == "ms" else {}
    if listed:
        figures["frontier"] = [[result.rule.thresholds, result.accuracy, result.cost] for result in listed]
    return {
        "artifact": name,
        **figures,
        "images": len(table.labels),
        **asdict(chosen.rule),
        "accuracy": chosen.accuracy,
        "exit_shares": list(chosen.exit_shares),
        "macs": table.apply(chosen.rule).cost,
        "final_exit_accuracy": float(table.correct[-1].mean()),
        "difference_points": difference_points(table, chosen.rule),
    }


def _choose(front: list[RuleResult], table: OutcomeTable, accuracy_drop: float, budget: float | None) -> RuleResult:
    from branchynet.exits.threshold_search import select, select_within

    if budget is not None:
        return select_within(front, budget)
    return select(front, float(table.correct[-1].mean()) - accuracy_drop / 100)


def _fixed(pairs: list[str]) -> dict[int, float]:
    fixed = {}
    for pair in pairs:
        number, _, threshold = pair.partition("=")
        try:
            fixed[int(number)] = float(threshold)
        except ValueError:
            raise InvalidInput(f"--fix {pair} is not EXIT=THRESHOLD, as in --fix 0=0.5") from None
    return fixed


def _ms_by_exit(
    manifest: Manifest, stage_ms: str | None, profile: Path | None, uplink_mbps: float | None, rtt_ms: float
) -> NDArray[Any]:
    """Time of a sample that leaves at each exit: float64 [E]."""
    import math

    import numpy as np

    from branchynet.artifact.profile_file import read_profile

    exit_of_stage = manifest.cost.exit_of_stage
    exit_stages = [stage for stage, number in enumerate(exit_of_stage) if number is not None]
    if (stage_ms is None) == (profile is None):
        raise InvalidInput("--ms needs the time that stages take: --stage-ms or --profile, one of them")
    if profile is not None:
        measured = read_profile(profile)
        if measured.exit_stages != tuple(exit_stages):
            raise InvalidInput(f"{profile} is of a network with exits after {measured.exit_stages}, not {exit_stages}")
        cut = manifest.stages if uplink_mbps is None else manifest.cut
        return measured.ms_by_exit(cut, math.inf if uplink_mbps is None else uplink_mbps, rtt_ms)
    try:
        times = [float(part) for part in (stage_ms or "").split(",")]
    except ValueError:
        raise InvalidInput(f"--stage-ms {stage_ms} is not numbers with commas between them") from None
    if len(times) != manifest.stages or not 0 <= min(times) <= max(times) < math.inf:
        raise InvalidInput(f"--stage-ms {stage_ms}: {manifest.name} has {manifest.stages} stages, each of 0 ms or more")
    return np.cumsum(times)[exit_stages]


def _print(
    front: list[RuleResult], chosen: RuleResult, unit: str, title: str, table: OutcomeTable, *, whole: bool
) -> None:
    scale, column = (1e6, "M MACs") if unit == "MACs" else (1.0, unit)
    shown = Table(title=title)
    for heading in ("thresholds", "accuracy %", "exits %", column, ""):
        shown.add_column(heading, justify="right")
    step = 1 if whole else max(1, len(front) // SHOWN_RULES)
    for result in sorted({*front[::step], chosen}, key=lambda result: result.cost):
        shown.add_row(
            ", ".join(f"{threshold:.4g}" for threshold in result.rule.thresholds),
            f"{100 * result.accuracy:.2f}",
            " / ".join(f"{100 * share:.1f}" for share in result.exit_shares),
            f"{result.cost / scale:.3f}",
            "chosen" if result == chosen else "",
        )
    console.print(shown)
    console.print(f"final exit only: {100 * table.correct[-1].mean():.2f} % for {table.costs[-1]:,.6g} {unit}")
    print_difference(difference_points(table, chosen.rule))
