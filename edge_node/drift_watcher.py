"""An edge that watches its own exits: are scores still those of calibration, and does the wanted share leave here?"""

from __future__ import annotations

import numpy as np

from branchynet.exits.drift import Monitor, Reference, Retuner
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Progress
from branchynet.serving.logging import Event, logger

__all__ = ["Watcher"]

CHUNK = 16  # samples: looking at each one would be felt beside a small network
WORTH_LOGGING = 0.05


class Watcher:
    """Notes what an edge with *exits* exits did with each batch; *rule* is the one for requests that bring none.

    *keep_exit_share*: the share of samples that shall leave on the edge. If given, *rule* moves between requests to
    keep it; otherwise it stays what it was at calibration.
    """

    def __init__(self, reference: Reference, exits: int, keep_exit_share: float | None = None) -> None:
        self.monitor = Monitor(reference)
        self.rule = reference.rule
        self._calibrated = reference.rule
        # The last exit of a whole network has no threshold and no reference.
        self._exits = min(exits, len(reference.exits))
        self._retuner = None if keep_exit_share is None else Retuner(reference, 1 - keep_exit_share, moved=self._exits)
        self._logged_offset = 0.0
        self._batches: list[Progress] = []
        self._under = self.rule
        self._log = logger()

    @property
    def moves(self) -> bool:
        """Whether it moves the rule."""
        return self._retuner is not None

    def note(self, progress: Progress, rule: ExitRule) -> None:
        """Take note of a batch that ran the edge's stages under *rule*: this watcher's, now or a moment ago."""
        if self._batches and rule != self._under:
            self._look()
        self._under = rule
        self._batches.append(progress)
        if sum(len(batch.exits) for batch in self._batches) >= CHUNK:
            self._look()

    def gauges(self) -> dict[str, float]:
        """Numbers to watch: evidence of a change (1 is an alarm), samples and threshold of each exit."""
        numbers: dict[str, float] = {}
        for index in range(self._exits):
            numbers[f"exit_{index}_evidence"] = round(self.monitor.evidence(index), 4)
            numbers[f"exit_{index}_samples"] = self.monitor.samples(index)
            numbers[f"exit_{index}_threshold"] = self.rule.thresholds[index]
        return numbers

    def _look(self) -> None:
        exits = np.concatenate([batch.exits for batch in self._batches])
        logits = np.concatenate([batch.logits for batch in self._batches])
        kept = sum(len(batch.remaining) for batch in self._batches) + int((exits >= self._exits).sum())
        self._batches.clear()
        for index in range(self._exits):
            if self._under.thresholds[:index] != self._calibrated.thresholds[:index]:
                break  # whom the exits before keep now is another population than at calibration
            scores = self._under.score(index, logits[exits == index])
            passed_on = int((exits > index).sum())
            alarm = self.monitor.observe(index, scores, passed_on, self._under.thresholds[index])
            if alarm is not None:
                self._log.warning(
                    Event.DRIFT,
                    exit=index,
                    expected_share=round(alarm.expected_share, 4),
                    seen_share=round(alarm.seen_share, 4),
                    **self.gauges(),
                )
        if self._retuner is not None:
            self._retuner.observe(kept, len(exits))
            self.rule = self._retuner.rule
            if abs(self._retuner.offset - self._logged_offset) >= WORTH_LOGGING:
                self._logged_offset = self._retuner.offset
                self._log.info(Event.RETUNED, offset=round(self._retuner.offset, 4), **self.gauges())
