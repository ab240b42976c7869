"""Ray for as long as a block lasts: a small one of our own on this machine, or somebody's cluster.

with ray_session() as cpus:
    ...  # import ray; ray.put, ray.remote, ray.get
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from branchynet.errors import InvalidInput, Unavailable, need
from branchynet.serving.address import Address
from branchynet.system import usable_cores

__all__ = ["check_cluster", "ray_session"]

OBJECT_STORE_BYTES = 200 * 1024 * 1024
PROBE_TIMEOUT_S = 5.0
REMOVE_TIMEOUT_S = 2.0
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def ray_session(address: str | None = None, cpus: int | None = None) -> Iterator[int]:
    """Connect to the cluster at *address* (`host:port`, `ray://host:port` or `auto`), or start Ray here.

    The value is the number of CPUs there are for workers; *cpus* sets it for a Ray started here (default: those this
    process may use). When the block ends, however it ends, the connection is closed and what was started is stopped.
    Nothing else may be connected in this process meanwhile. A Ray started here listens on the loopback address only.

    Raises `SettingsError` if Ray is not installed, `InvalidInput` for an *address* that is none, `Unavailable` if it
    does not answer.
    """
    need("ray")
    if address is not None:
        _probe(address)
    # Both are read once, when Ray is imported.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:
        # Otherwise a Ray on Linux listens on every network this machine is on, and whoever reaches it can run code. As
        # on the systems in its name, it then keeps to the loopback address, whatever `_node_ip_address` says.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            # Otherwise Ray makes one and keeps it at home, where it cannot be written or where there is none.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    with contextlib.ExitStack() as stack:
        quiet: dict[str, Any] = {
            "logging_level": "ERROR",
            "log_to_driver": False,
            "runtime_env": {"env_vars": WORKER_ENVIRONMENT},
        }
        if address is None:
            # A folder of our own: Ray's default one belongs to whoever used Ray first on this machine, and keeps the
            # logs of every run. Not below TMPDIR, since the path of a Unix socket has at most 107 bytes.
            folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
            stack.callback(_remove, folder)
            stack.callback(ray.shutdown)
            ray.init(
                "local",  # also if RAY_ADDRESS is set
                num_cpus=cpus or usable_cores(),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                _temp_dir=str(folder),
                **quiet,
            )
        else:
            stack.callback(ray.shutdown)
            try:
                ray.init(address, **quiet)
            except (ConnectionError, ValueError) as error:
                raise Unavailable(f"no Ray cluster at {address}: {error}") from None
        yield int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]


def check_cluster(address: str) -> Address | None:
    """Where *address*, one for `ray_session`, is; None for `auto`, which Ray looks up. `InvalidInput` if it is none."""
    if address == "auto":
        return None
    try:
        return Address.parse(address.removeprefix("ray://"))
    except InvalidInput as error:
        raise InvalidInput(f"{error}; a Ray cluster may also be ray://HOST:PORT or auto") from None


def _probe(address: str) -> None:
    """Raise `Unavailable` if nobody listens at *address*; Ray itself takes over a minute to say so."""
    where = check_cluster(address)
    if where is None:
        return
    try:
        socket.create_connection((where.host, where.port), PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise Unavailable(f"no Ray cluster at {address}: {error}") from None


def _remove(folder: Path) -> None:
    """Delete *folder*; the last of Ray's processes may write there a moment after `ray.shutdown`."""
    give_up_s = time.monotonic() + REMOVE_TIMEOUT_S
    while folder.exists() and time.monotonic() < give_up_s:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
