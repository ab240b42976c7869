"""A plan file: all that an edge needs to choose its plan anew as its link and its cloud change, in one JSON file.

`branchynet plan --out` writes it, `branchynet edge --adapt` reads it. It belongs to one artifact, by content hash.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from branchynet.decisions.adaptation import Adaptation
from branchynet.decisions.candidates import Candidates
from branchynet.decisions.exits import ExitRule
from branchynet.decisions.plans import Plan
from branchynet.decisions.timing import Link, ServingProfile
from branchynet.errors import DamagedData, InvalidInput

__all__ = ["PlanFile", "read_plan_file", "write_plan_file"]

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
        if content_hash != self.content_hash:
            raise InvalidInput(
                f"the plans are for {self.artifact} with content hash {self.content_hash}; {name} has {content_hash}. "
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
        "ways": [{"cut": way.cut, "codec": way.codec, "local_only": way.local_only} for way in candidates.ways],
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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def read_plan_file(path: Path) -> PlanFile:
    """The plans in the JSON file at *path*; `DamagedData` if it holds none, `OSError` if it cannot be read."""
    try:
        return _File.model_validate_json(path.read_bytes()).to_plans()
    except ValidationError as error:
        raise DamagedData(f"{path} holds no plans: {'; '.join(map(_problem, error.errors()))}") from None
    except InvalidInput as error:
        raise DamagedData(f"{path} holds no plans: {error}") from None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Guess(_Part):
    uplink_mbps: float
    rtt_ms: float


class _Way(_Part):
    cut: Annotated[int, Field(ge=0)]
    codec: str
    local_only: bool


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
        ways = tuple(Plan(way.cut, rule, way.local_only, way.codec) for way in self.ways)
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
            profile.costs_by_exit(way.cut, way.codec, Link(1.0), local_only=way.local_only)
        for index in range(len(candidates)):
            candidates.plan(index)  # a threshold that no rule has is refused
        return candidates

    def to_plans(self) -> PlanFile:
        """What the file says."""
        profile = _PROFILE.validate_python(self.profile)
        guessed = Link(self.guessed.uplink_mbps, rtt_ms=self.guessed.rtt_ms)
        adaptation = _ADAPTATION.validate_python(self.adaptation)
        return PlanFile(self.artifact, self.content_hash, self.plans_of(profile), profile, guessed, adaptation)


_PROFILE = TypeAdapter(ServingProfile)
_RULE = TypeAdapter(ExitRule)
_ADAPTATION = TypeAdapter(Adaptation)


def _problem(problem: Any) -> str:
    told = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:  # about several values at once, which the message names
        return told
    return f"{'.'.join(map(str, problem['loc']))}: {told} (given: {str(problem['input'])[:60]!r})"
