"""The one error tree. Each error says whose fault it is and knows its gRPC status.

    BranchyNetError             INTERNAL             our own mistake, if nothing more precise is said
    ├── InvalidInput            INVALID_ARGUMENT     the caller's value is wrong: shape, dtype, cut, threshold, NaN
    ├── TooLarge                RESOURCE_EXHAUSTED   the batch is legal in kind but over this node's limit
    ├── UnknownModel            NOT_FOUND            no such model, artifact or dataset is known here
    ├── ArtifactMismatch        FAILED_PRECONDITION  the two halves come from different artifacts
    ├── DeadlineExceeded        DEADLINE_EXCEEDED    the answer would come too late
    ├── Unavailable             UNAVAILABLE          the other side is away, draining or not reachable
    ├── Unimplemented           UNIMPLEMENTED        the node does not offer this service
    ├── DamagedData             DATA_LOSS            a file is not what its checksum or format says
    └── SettingsError           INVALID_ARGUMENT     a flag, environment variable or settings file is wrong

The status is kept as text, so that this module (and everything pure above it) loads without grpc.
Every message names the offending value and, where there is one, the legal range.
"""

from __future__ import annotations

from importlib.util import find_spec

__all__ = [
    "EXTRAS",
    "ArtifactMismatch",
    "BranchyNetError",
    "Cancelled",
    "DamagedData",
    "DeadlineExceeded",
    "InvalidInput",
    "SettingsError",
    "TooLarge",
    "Unavailable",
    "Unimplemented",
    "UnknownModel",
    "error_for_status",
    "installed",
    "need",
    "not_installed",
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


class Unimplemented(BranchyNetError):
    """The node does not offer the service that was called."""

    grpc_status = "UNIMPLEMENTED"


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
        Unimplemented,
        DamagedData,
    )
}


def error_for_status(status: str, details: str) -> BranchyNetError:
    """The error that a gRPC status name stands for, with the server's *details* as its message."""
    return _BY_STATUS.get(status, BranchyNetError)(details)


# The extra of the package that brings a module; what is not here comes with `pip install branchynet` itself.
EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnxscript", "sklearn"), "torch"),
    **dict.fromkeys(("plotly", "pyarrow", "ray"), "simulate"),
    "matplotlib": "plots",
}


def need(*modules: str) -> None:
    """Raise `SettingsError`, with the line to type, unless all of *modules* are installed; imports none of them."""
    missing = [name for name in modules if not installed(name)]
    if missing:
        raise not_installed(*missing)


def not_installed(*modules: str) -> SettingsError:
    """The error for *modules* that are not there, which names the extra that brings them."""
    extras = sorted({EXTRAS[name] for name in modules if name in EXTRAS})
    package = f"branchynet[{','.join(extras)}]" if extras else "branchynet"
    return SettingsError(f"{', '.join(modules)} is not installed: pip install '{package}'")


def installed(module: str) -> bool:
    """Whether *module* could be imported; does not import it."""
    try:
        return find_spec(module) is not None
    except ImportError:  # of a finder that forbids it
        return False
