"""`branchynet calibrate`: choose thresholds on held-out training images, or compare criteria there."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from branchynet.decisions.exits import LOGIT_CRITERIA, Criterion
from branchynet.decisions.risk import Loss
from cli.guarantee import ConfidenceOption, LossOption, ToleratedLossOption
from cli.output import ArtifactOption, DataOption, JsonOption, console, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from branchynet.decisions.outcomes import OutcomeTable, RuleResult
__all__ = ["calibrate"]

SHOWN_RULES = 12


CriterionOption = Annotated[Criterion, typer.Option(help="How confidence is scored.")]
TemperatureOption = Annotated[
    bool, typer.Option("--temperature", help="Fit a temperature for each exit, which becomes part of the rule.")
]
DropOption = Annotated[
    float, typer.Option(help="Accuracy (0..1) that may be lost against the final exit.", min=0.0, max=1.0)
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
CompareOption = Annotated[
    bool, typer.Option("--compare", help="Compare all criteria, with and without temperature, on unseen images.")
]
HalvingsOption = Annotated[int, typer.Option(help="With --compare: random halvings of the split.", min=2)]
PlotOption = Annotated[
    Path | None, typer.Option(help="PNG of the frontier; with --compare, of reliability.", dir_okay=False)
]
OutOption = Annotated[Path | None, typer.Option(help="Folder for the artifact with its new rule.", file_okay=False)]


def calibrate(
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    criterion: CriterionOption = Criterion.ENTROPY,
    temperature: TemperatureOption = False,
    max_drop: DropOption = 0.001,
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
    compare: CompareOption = False,
    halvings: HalvingsOption = 10,
    plot: PlotOption = None,
    out: OutOption = None,
    json_file: JsonOption = None,
) -> None:
    """Choose thresholds on the artifact's calibration split, which was held out from training; never on test data.

    Prints the frontier of accuracy against cost and the rule chosen on it: the cheapest within --max-drop, or the most
    accurate within --macs or --ms, or the cheapest that is proved to lose less than --tolerated-loss. With --out the
    artifact is copied there with that rule.
    """
    from branchynet.decisions.calibration import frontier as search
    from branchynet.models import zoo
    from branchynet.training.assembly import calibration_table, copy_with_rule
    from branchynet.training.criteria import candidate_name
    from branchynet.training.pictures import draw_frontier
    from branchynet.training.scoring import fit_rule
    from cli.criteria import compare_on

    _check_purpose(macs, ms, compare=compare, choosing=bool(fix or frontier or out))
    if tolerated_loss is not None:
        _check_alone(temperature, macs, ms, fix, frontier, compare, plot)
        _guarantee(artifact, data, criterion, tolerated_loss, confidence, loss, out, json_file)
        return
    folder, fixed = zoo.find(artifact), _fixed(fix or [])
    costs = None if ms is None else _ms_by_exit(folder, stage_ms, profile, uplink_mbps, rtt_ms)
    manifest, table = calibration_table(artifact, data)
    if compare:
        compare_on(folder, manifest, table, data, max_drop, halvings, plot, json_file)
        return
    priced, unit = (table, "MACs") if costs is None else (replace(table, costs=costs), "ms")
    front = search(priced, fit_rule(table, criterion, tempered=temperature), fixed)
    chosen = _choose(front, table, max_drop, macs if ms is None else ms)
    title = f"{manifest.name}, {candidate_name(criterion, temperature)}: {len(table.labels):,} held-out training images"
    _print(front, chosen, unit, title, priced, whole=frontier)
    write_json(json_file, _figures(manifest.name, table, chosen, front if frontier else [], unit))
    if plot is not None:
        draw_frontier(front, chosen, unit, plot, title)
        console.print(f"drawn: {plot}")
    if out is not None:
        copy_with_rule(artifact, out, table, chosen.rule)
        console.print(f"written: {out}")


def _check_alone(*others: object) -> None:
    """Refuse options that do not go with --tolerated-loss."""
    from branchynet.errors import InvalidInput

    if any(other not in (None, False) for other in others):
        raise InvalidInput(
            "--tolerated-loss goes with --criterion, --confidence, --loss, --out and --json only; "
            "temperatures and gates, which are fitted on the calibration images, would void the guarantee"
        )


def _guarantee(
    artifact: str,
    data: Path | None,
    criterion: Criterion,
    tolerated_loss: float,
    confidence: float,
    loss: Loss,
    out: Path | None,
    json_file: Path | None,
) -> None:
    """Choose by proof instead of by screening."""
    from branchynet.decisions.risk import control_risk
    from branchynet.errors import InvalidInput
    from branchynet.training.assembly import calibration_table, copy_with_rule
    from cli.guarantee import guarantee_figures, print_guarantee

    if criterion not in LOGIT_CRITERIA:
        raise InvalidInput(
            f"--tolerated-loss with criterion {criterion.value}: only {', '.join(LOGIT_CRITERIA)} will do"
        )
    manifest, table = calibration_table(artifact, data)
    found = control_risk(table, criterion, tolerated_loss, confidence, loss)
    print_guarantee(manifest.name, found)
    write_json(json_file, guarantee_figures(manifest.name, found))
    if out is not None:
        copy_with_rule(artifact, out, table, found.rule, found)
        console.print(f"written: {out}")


def _check_purpose(macs: float | None, ms: float | None, *, compare: bool, choosing: bool) -> None:
    """Refuse options of which one would be ignored."""
    from branchynet.errors import InvalidInput

    if macs is not None and ms is not None:
        raise InvalidInput("--macs and --ms are both given; there is one budget")
    if compare and (macs is not None or ms is not None or choosing):
        raise InvalidInput("--compare knows only --max-drop, --halvings, --plot and --json: it chooses no rule to keep")


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
    }


def _choose(front: list[RuleResult], table: OutcomeTable, max_drop: float, budget: float | None) -> RuleResult:
    from branchynet.decisions.calibration import select, select_within

    if budget is not None:
        return select_within(front, budget)
    return select(front, float(table.correct[-1].mean()) - max_drop)


def _fixed(pairs: list[str]) -> dict[int, float]:
    from branchynet.errors import InvalidInput

    fixed = {}
    for pair in pairs:
        number, _, threshold = pair.partition("=")
        try:
            fixed[int(number)] = float(threshold)
        except ValueError:
            raise InvalidInput(f"--fix {pair} is not EXIT=THRESHOLD, as in --fix 0=0.5") from None
    return fixed


def _ms_by_exit(
    folder: Path, stage_ms: str | None, profile: Path | None, uplink_mbps: float | None, rtt_ms: float
) -> NDArray[Any]:
    """Time of a sample that leaves at each exit: float64 [E]."""
    import math

    import numpy as np

    from branchynet.errors import InvalidInput
    from branchynet.manifest import read_manifest
    from orchestrator.measuring import read_profile

    manifest = read_manifest(folder)
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
    console.print(f"final exit alone: {100 * table.correct[-1].mean():.2f} % for {table.costs[-1]:,.6g} {unit}")
