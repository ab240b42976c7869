"""The one error tree. Each error says whose fault it is and knows its gRPC status.

    BranchyNetError             INTERNAL             our own mistake, if nothing more precise is said
    ├── InvalidInput            INVALID_ARGUMENT     the caller's value is wrong: shape, dtype, cut, threshold, NaN
    ├── TooLarge                RESOURCE_EXHAUSTED   the batch is legal in kind but over this node's limit
    ├── UnknownModel            NOT_FOUND            no such model, artifact or dataset is known here
    ├── ArtifactMismatch        FAILED_PRECONDITION  the two halves come from different artifacts
    ├── DeadlineExceeded        DEADLINE_EXCEEDED    the answer would come too late
    ├── Unavailable             UNAVAILABLE          the other side is away, draining or not reachable
    ├── DamagedData             DATA_LOSS            a file is not what its checksum or format says
    └── SettingsError           INVALID_ARGUMENT     a flag, environment variable or settings file is wrong

The status is kept as text, so that this module (and everything pure above it) loads without grpc.
Every message names the offending value and, where there is one, the legal range.
"""

from __future__ import annotations

__all__ = [
    "ArtifactMismatch",
    "BranchyNetError",
    "Cancelled",
    "DamagedData",
    "DeadlineExceeded",
    "InvalidInput",
    "SettingsError",
    "TooLarge",
    "Unavailable",
    "UnknownModel",
    "error_for_status",
]


class BranchyNetError(Exception):
    """Root of every error this system raises on purpose."""

    grpc_status: str = "INTERNAL"


class InvalidInput(BranchyNetError, ValueError):
    """The caller passed a value that can never be right."""

    grpc_status = "INVALID_ARGUMENT"


class TooLarge(BranchyNetError):
    """The request is well formed but larger than this node accepts."""

    grpc_status = "RESOURCE_EXHAUSTED"


class UnknownModel(BranchyNetError, LookupError):
    """A name that is not served or not known here."""

    grpc_status = "NOT_FOUND"


class ArtifactMismatch(BranchyNetError):
    """Edge half and cloud half were cut from different artifacts."""

    grpc_status = "FAILED_PRECONDITION"


class DeadlineExceeded(BranchyNetError, TimeoutError):
    """The time allowed for the answer is over."""

    grpc_status = "DEADLINE_EXCEEDED"


class Unavailable(BranchyNetError, ConnectionError):
    """The other side cannot be reached or is shutting down; trying again later is safe."""

    grpc_status = "UNAVAILABLE"


class Cancelled(BranchyNetError):
    """The call was ended before its answer: this client is closed, or the node stopped."""

    grpc_status = "CANCELLED"


class DamagedData(BranchyNetError):
    """A file is truncated, altered or of another format than it claims."""

    grpc_status = "DATA_LOSS"


class SettingsError(BranchyNetError, ValueError):
    """A flag, an environment variable or a line of the settings file is wrong."""

    grpc_status = "INVALID_ARGUMENT"


_BY_STATUS: dict[str, type[BranchyNetError]] = {
    error.grpc_status: error
    for error in (
        InvalidInput,
        TooLarge,
        UnknownModel,
        ArtifactMismatch,
        DeadlineExceeded,
        Unavailable,
        Cancelled,
        DamagedData,
    )
}


def error_for_status(status: str, details: str) -> BranchyNetError:
    """The error that a gRPC status name stands for, with the server's *details* as its message."""
    return _BY_STATUS.get(status, BranchyNetError)(details)
