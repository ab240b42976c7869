"""What it gains that commands keep memory which torch frees: EfficientNet-Lite0 at 224×224, one core.

    python benchmarks/kept_memory.py [--rounds 5]

In turn a process that leaves the C library as it is and one that has it keep what is freed, as commands do. Needs glibc
and timm (`.[dev]`); the weights are random.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from attach import import_timm
from rich.console import Console
from rich.table import Table

from branchynet.system import keep_freed_memory

BATCHES = (1, 6, 16)
IMAGES = 48


@torch.inference_mode()
def measure(model: torch.nn.Module, batch: int) -> tuple[float, float]:
    """Milliseconds and page faults an image."""
    x = torch.zeros(batch, 3, 224, 224)
    model(x)
    faults, started_s = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    for _ in range(IMAGES // batch):
        model(x)
    ms = 1e3 * (time.perf_counter() - started_s)
    return ms / IMAGES, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / IMAGES


def measure_all() -> list[tuple[float, float]]:
    """`measure` for each of `BATCHES`, in this process."""
    torch.set_num_threads(1)
    model = import_timm().create_model("tf_efficientnet_lite0").eval()
    return [measure(model, batch) for batch in BATCHES]


def main() -> None:
    """Read the command line, measure in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", choices=["as it is", "kept"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        if options.child == "kept":
            keep_freed_memory()
        print(json.dumps(measure_all()))
        return
    runs = np.array([[_child("as it is"), _child("kept")] for _ in range(options.rounds)])  # [rounds, 2, batches, 2]
    table = Table("batch", "as it is: ms", "page faults", "kept: ms", "page faults", "times as fast")
    for number, batch in enumerate(BATCHES):
        (ms, faults), (kept_ms, kept_faults) = np.median(runs[:, :, number], axis=0)
        gains = runs[:, 0, number, 0] / runs[:, 1, number, 0]
        spread = f"{np.median(gains):.2f} ({gains.min():.2f} - {gains.max():.2f})"
        table.add_row(str(batch), f"{ms:.1f}", f"{faults:,.0f}", f"{kept_ms:.1f}", f"{kept_faults:,.0f}", spread)
    Console().print(table)


def _child(how: str) -> list[tuple[float, float]]:
    run = subprocess.run([sys.executable, __file__, "--child", how], stdout=subprocess.PIPE, check=True)
    found: list[tuple[float, float]] = json.loads(run.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
