"""Every log event, named in one place, and how logs are written. Removing this module would change no result."""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from typing import Literal, cast

import structlog

from branchynet.terminal import shown

__all__ = ["Event", "LogFormat", "LogLevel", "configure_logging", "logger"]

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


class Event(StrEnum):
    """What nodes report. Fields beside the event carry their units in their names."""

    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    REFUSED = "request refused"
    FAILED = "request failed"
    CLOUD_LOST = "cloud does not answer; the edge answers instead"
    CLOUD_BACK = "cloud answers again"
    DRIFT = "drift detected"
    REPLANNED = "plan changed"
    RETUNED = "thresholds moved to keep the exit share"
    LOADED = "another version is held beside the one that is served"
    SWITCHED = "another version is served"
    RETIRED = "a version is dropped"


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """Log to standard error, as lines for people (`console`) or one JSON object a line (`json`)."""
    render: structlog.types.Processor
    if log_format == "json":
        render = structlog.processors.JSONRenderer()
    else:
        render = _ForPeople(colors=sys.stderr is not None and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


class _ForPeople(structlog.dev.ConsoleRenderer):
    """A line an event, whatever stands in what others said."""

    def __call__(self, logger: structlog.types.WrappedLogger, name: str, event_dict: structlog.types.EventDict) -> str:
        ours = ("exception", "stack")  # these have several lines
        others = {key for key, value in event_dict.items() if isinstance(value, str) and not value.isprintable()}
        return super().__call__(
            logger,
            name,
            {key: shown(value) if key in others.difference(ours) else value for key, value in event_dict.items()},
        )


def logger(**context: object) -> structlog.stdlib.BoundLogger:
    """A logger that adds *context* to every event."""
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger(**context))
