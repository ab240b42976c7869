"""What it gains that commands keep memory which torch frees: EfficientNet-Lite0 at 224×224, one core.

    python benchmarks/kept_memory.py [--rounds 9]

The C library is told in turn to hand freed memory back, as it does by itself, and to keep it, in one process. Needs
glibc and timm (`.[dev]`); the weights are random.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import time

import numpy as np
import torch
from attach import import_timm
from rich.console import Console
from rich.table import Table

from branchynet.system import keep_freed_memory

BATCHES = (1, 6, 16)
IMAGES = 48
# mallopt(3)'s own values of M_TRIM_THRESHOLD, M_MMAP_MAX and M_MMAP_THRESHOLD.
AS_IT_IS = ((-1, 128 * 1024), (-4, 65536), (-3, 128 * 1024))


def hand_back() -> None:
    """The C library's own ways, and what it keeps goes."""
    libc = ctypes.CDLL(None)
    for option, value in AS_IT_IS:
        libc.mallopt(option, value)
    libc.malloc_trim(0)


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


def main() -> None:
    """Read the command line, measure in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    model = import_timm().create_model("tf_efficientnet_lite0").eval()
    table = Table("batch", "handed back: ms", "faults", "kept: ms", "faults", "times as fast")
    for batch in BATCHES:
        found = []
        for _ in range(rounds):
            hand_back()
            before = measure(model, batch)
            keep_freed_memory()
            found.append((before, measure(model, batch)))
        (ms, faults), (kept_ms, kept_faults) = np.median(found, axis=0)
        gains = sorted(before[0] / after[0] for before, after in found)
        table.add_row(
            str(batch),
            f"{ms:.1f}",
            f"{faults:,.0f}",
            f"{kept_ms:.1f}",
            f"{kept_faults:,.0f}",
            f"{np.median(gains):.2f} ({gains[0]:.2f} - {gains[-1]:.2f})",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
