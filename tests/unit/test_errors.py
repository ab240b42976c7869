"""One root, one gRPC status each, and the way back from a status."""

import pytest

from branchynet import errors
from branchynet.errors import BranchyNetError, InvalidInput, error_for_status

OURS = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
# Both are the caller's fault; over the wire a wrong setting never travels.
RETURNED = [error for error in OURS if error.__name__ != "SettingsError"]


@pytest.mark.parametrize("error", OURS)
def test_every_error_is_of_the_one_root_and_keeps_its_message(error):
    assert issubclass(error, BranchyNetError)
    assert str(error("the batch holds 300")) == "the batch holds 300"


@pytest.mark.parametrize("error", RETURNED)
def test_a_status_gives_the_error_back_with_its_details(error):
    back = error_for_status(error.grpc_status, "details")
    assert type(back) is error
    assert str(back) == "details"


@pytest.mark.parametrize("status", ["ABORTED", "UNKNOWN", "", "invalid_argument"])
def test_an_unforeseen_status_is_our_root(status):
    assert type(error_for_status(status, "details")) is BranchyNetError


def test_the_statuses_are_grpcs_and_differ():
    grpc = pytest.importorskip("grpc")
    statuses = [error.grpc_status for error in RETURNED]
    assert len(set(statuses)) == len(statuses)
    assert set(statuses) <= {status.name for status in grpc.StatusCode}
    assert errors.SettingsError.grpc_status == InvalidInput.grpc_status


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        ("InvalidInput", ValueError),
        ("UnknownModel", LookupError),
        ("DeadlineExceeded", TimeoutError),
        ("Unavailable", ConnectionError),
        ("SettingsError", ValueError),
    ],
)
def test_errors_are_caught_as_the_builtin_they_resemble(error, builtin):
    assert issubclass(getattr(errors, error), builtin)
