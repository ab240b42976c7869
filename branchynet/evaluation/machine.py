"""What a measurement was made with: processor, cores and versions, for records that outlive the machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from branchynet.system import usable_cores

__all__ = ["describe_machine"]

PACKAGES = ("branchynet", "torch", "onnxruntime", "numpy")


def describe_machine() -> dict[str, Any]:
    """`cpu` (model), `cores` this process may use, `system`, and versions of Python and of what computes."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        **versions,
    }


def _cpu_model() -> str:
    """The processor's own name; Python knows it only by its family on most systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
