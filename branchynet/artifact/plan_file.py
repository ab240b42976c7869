"""Plans in JSON files: one to serve by (`branchynet edge --plan`), or many to choose from (`branchynet edge --adapt`).

One plan is short enough to write by hand; only `cut` must be there, and what is not given is the artifact's own:

    {"cut": 1, "codec": "uint8+zstd", "edge_only": false, "rule": {"criterion": "entropy", "thresholds": [0.3]}}

Many plans, with all that an edge needs to choose anew as its link and its cloud change, are what `branchynet plan
--out` writes. They belong to one artifact, by content hash; one plan does if it says so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from branchynet.artifact.manifest import Manifest
from branchynet.data.text_files import read_text
from branchynet.errors import DamagedData, InvalidInput
from branchynet.exits.rules import ExitRule
from branchynet.files import write_json
from branchynet.placement.candidates import Candidates
from branchynet.placement.plan import Plan, plain_codec
from branchynet.placement.replanner import Adaptation
from branchynet.placement.serving_profile import Link, ServingProfile

__all__ = ["PlanFile", "read_plan", "read_plan_file", "write_plan", "write_plan_file"]

Share = Annotated[float, Field(ge=0, le=1)]
# Shares are whole numbers of samples divided, and written as decimals.
ROUNDING = 1e-6


@dataclass(frozen=True)
class PlanFile:
    """Plans for the artifact of that name and *content_hash*, what they take, and by what they are changed.

    *guessed* is the link that is believed in before anything was sent; its downlink does not count.
    """

    artifact: str
    content_hash: str
    candidates: Candidates
    profile: ServingProfile
    guessed: Link
    adaptation: Adaptation

    def check_artifact(self, name: str, content_hash: str) -> None:
        """Raise `InvalidInput` unless these plans are for the artifact *name* with *content_hash*."""
        _check_artifact((self.artifact, self.content_hash), (name, content_hash))


def write_plan(path: Path, plan: Plan, artifact: str, content_hash: str) -> None:
    """Write *plan*, for *artifact* with *content_hash*, as JSON."""
    written = {"format": 1, "artifact": artifact, "content_hash": content_hash, "cut": plan.cut, "codec": plan.codec}
    written |= {"edge_only": plan.edge_only, "rule": asdict(plan.rule)}
    write_json(path, written, indent=1)


def read_plan(path: Path, manifest: Manifest) -> Plan:
    """The one plan in the JSON file at *path*, for the artifact of *manifest*, whose rule it has if it brings none.

    Raises `DamagedData` if the file holds no plan, `InvalidInput` if it is one of another artifact, and `OSError` if it
    cannot be read.
    """
    try:
        file = _PlanOnly.model_validate_json(read_text(path))
        rule = manifest.rule if file.rule is None else _RULE.validate_python(file.rule)
        plan = Plan(file.cut, rule, file.edge_only, file.codec or plain_codec(file.cut))
    except ValidationError as error:
        raise DamagedData(f"{path} holds no plan: {'; '.join(map(_problem, error.errors()))}") from None
    except (InvalidInput, UnicodeDecodeError) as error:
        raise DamagedData(f"{path} holds no plan: {error}") from None
    if file.content_hash:
        _check_artifact((file.artifact, file.content_hash), (manifest.name, manifest.content_hash))
    return plan


def _check_artifact(theirs: tuple[str, str], ours: tuple[str, str]) -> None:
    """Raise `InvalidInput` unless both, name and content hash, are the same artifact."""
    if theirs[1] != ours[1]:
        raise InvalidInput(
            f"the plans are for {theirs[0]} with content hash {theirs[1]}; {ours[0]} has {ours[1]}. "
            "`branchynet plan --out` writes those of an artifact"
        )


def write_plan_file(path: Path, plans: PlanFile) -> None:
    """Write *plans* as JSON."""
    candidates = plans.candidates
    written = {
        "format": 1,
        "artifact": plans.artifact,
        "content_hash": plans.content_hash,
        "guessed": {"uplink_mbps": plans.guessed.uplink_mbps, "rtt_ms": plans.guessed.rtt_ms},
        "adaptation": asdict(plans.adaptation),
        "rule": asdict(candidates.ways[0].rule),
        "ways": [{"cut": way.cut, "codec": way.codec, "edge_only": way.edge_only} for way in candidates.ways],
        "plans": [
            {"way": int(way), "thresholds": list(thresholds), "shares": list(shares), "accuracy": float(accuracy)}
            for way, thresholds, shares, accuracy in zip(
                candidates.way,
                candidates.thresholds.tolist(),
                candidates.shares.tolist(),
                candidates.accuracy,
                strict=True,
            )
        ],
        "profile": asdict(plans.profile),
    }
    write_json(path, written, indent=1)


def read_plan_file(path: Path) -> PlanFile:
    """The plans in the JSON file at *path*; `DamagedData` if it holds none, `OSError` if it cannot be read."""
    try:
        return _File.model_validate_json(read_text(path)).to_plans()
    except ValidationError as error:
        raise DamagedData(f"{path} holds no plans: {'; '.join(map(_problem, error.errors()))}") from None
    except (InvalidInput, UnicodeDecodeError) as error:
        raise DamagedData(f"{path} holds no plans: {error}") from None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _PlanOnly(_Part):
    """A file with one plan."""

    format: Literal[1] = 1
    artifact: str = ""
    content_hash: str = ""
    cut: Annotated[int, Field(ge=0)]
    codec: str | None = None
    edge_only: bool = False
    rule: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_many(cls, file: Any) -> Any:
        if isinstance(file, dict) and "ways" in file:
            raise ValueError("these are plans to choose from, for --adapt; --plan is for one")
        return file


class _Guess(_Part):
    uplink_mbps: float
    rtt_ms: float


class _Way(_Part):
    cut: Annotated[int, Field(ge=0)]
    codec: str
    edge_only: bool


class _Plan(_Part):
    way: Annotated[int, Field(ge=0)]
    thresholds: tuple[float, ...]
    shares: tuple[Share, ...]
    accuracy: Share


class _File(_Part):
    """The file as it is on disk; which lengths belong together is checked here, what the values mean by their types."""

    format: Literal[1]
    artifact: str
    content_hash: str
    guessed: _Guess
    adaptation: dict[str, Any]
    rule: dict[str, Any]
    ways: Annotated[tuple[_Way, ...], Field(min_length=1)]
    plans: Annotated[tuple[_Plan, ...], Field(min_length=1)]
    profile: dict[str, Any]

    @model_validator(mode="after")
    def _plans_are_of_one_network(self) -> _File:
        exits = len(self.plans[0].shares)
        for number, plan in enumerate(self.plans):
            if plan.way >= len(self.ways) or (number and plan.way < self.plans[number - 1].way):
                raise ValueError(f"plan {number} is of way {plan.way}; ways must ascend and be below {len(self.ways)}")
            if len(plan.shares) != exits or len(plan.thresholds) != exits - 1:
                raise ValueError(
                    f"plan {number} has {len(plan.shares)} shares and {len(plan.thresholds)} thresholds; for {exits} "
                    f"exits there must be {exits} and {exits - 1}"
                )
            if abs(sum(plan.shares) - 1) > ROUNDING:
                raise ValueError(f"the shares of plan {number} add up to {sum(plan.shares):g}; it must be 1")
        return self

    def plans_of(self, profile: ServingProfile) -> Candidates:
        """The candidates; `InvalidInput` if *profile* is of another network or does not know a way."""
        rule = _RULE.validate_python(self.rule)
        ways = tuple(Plan(way.cut, rule, way.edge_only, way.codec) for way in self.ways)
        candidates = Candidates(
            ways,
            np.array([plan.way for plan in self.plans], dtype=np.int64),
            np.array([plan.thresholds for plan in self.plans], dtype=np.float64),
            np.array([plan.shares for plan in self.plans], dtype=np.float64),
            np.array([plan.accuracy for plan in self.plans], dtype=np.float64),
            profile.exit_stages,
            profile.held,
        )
        if candidates.shares.shape[1] != len(profile.exit_stages):
            raise InvalidInput(
                f"the plans are for {candidates.shares.shape[1]} exits, the profile for {len(profile.exit_stages)}"
            )
        for way in ways:
            if way.cut > profile.held:
                raise InvalidInput(f"a plan cuts at {way.cut}; the profile's edge holds stages [0, {profile.held})")
            profile.costs_by_exit(way.cut, way.codec, Link(1.0), edge_only=way.edge_only)
        for index in range(len(candidates)):
            candidates.plan(index)  # a threshold that no rule has is refused
        return candidates

    def to_plans(self) -> PlanFile:
        """The plans in the file."""
        profile = _PROFILE.validate_python(self.profile)
        guessed = Link(self.guessed.uplink_mbps, rtt_ms=self.guessed.rtt_ms)
        adaptation = _ADAPTATION.validate_python(self.adaptation)
        return PlanFile(self.artifact, self.content_hash, self.plans_of(profile), profile, guessed, adaptation)


_PROFILE = TypeAdapter(ServingProfile)
_RULE = TypeAdapter(ExitRule)
_ADAPTATION = TypeAdapter(Adaptation)


def _problem(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:  # about several values at once, which the message names
        return message
    return f"{'.'.join(map(str, problem['loc']))}: {message} (given: {str(problem['input'])[:60]!r})"
