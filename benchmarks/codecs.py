"""How long encoding and decoding take beside copying the same map: one thread, medians of interleaved rounds.

taskset -c 1 python benchmarks/codecs.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from branchynet.codecs import BOTTLENECK, FixedRanges, named_codec
from branchynet.evaluation.codec_study import FOR_MAPS

SHAPES = ((5, 15, 15), (64, 8, 8), (16, 32, 32), (64, 56, 56))


def relu_map(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """One sample [1, C, H, W] whose lower half is zero, as ReLU leaves it."""
    return np.maximum(np.random.default_rng(0).normal(size=(1, *shape)), 0).astype(np.float32)


def rounds_us(calls: list[Callable[[], object]], rounds: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Microseconds of each call in each round [rounds, calls]; the calls of a round follow one another."""
    spent = np.zeros((rounds, len(calls)))
    for number in range(-3, rounds):
        for index, call in enumerate(calls):
            started = time.perf_counter()
            call()
            spent[max(number, 0), index] = 1e6 * (time.perf_counter() - started)
    return spent


def main(rounds: Annotated[int, typer.Option(help="Interleaved rounds.", min=3)] = 300) -> None:
    """Print, for each shape and codec, bytes, microseconds, and how many copies of the map that is."""
    console = Console(width=120)
    for shape in SHAPES:
        batch = relu_map(shape)
        ranges = FixedRanges((0.0,) * shape[0], (3.0,) * shape[0])
        codecs = [named_codec(name, ranges) for name in FOR_MAPS if name != BOTTLENECK]  # no network, no bottleneck
        payloads = [codec.encode(batch) for codec in codecs]
        calls: list[Callable[[], object]] = [batch.copy]
        for codec, payload in zip(codecs, payloads, strict=True):
            calls += [partial(codec.encode, batch), partial(codec.decode, payload, shape, 1)]
        spent = rounds_us(calls, rounds)
        copying = spent[:, 0]
        table = Table(title=f"{shape}: {batch.nbytes:,} bytes, copied in {np.median(copying):.1f} us")
        for heading in ("codec", "bytes", "encode us", "in copies", "MB/s", "decode us", "in copies", "MB/s"):
            table.add_column(heading, justify="left" if heading == "codec" else "right", no_wrap=True)
        for index, (codec, payload) in enumerate(zip(codecs, payloads, strict=True)):
            cells = []
            for times in (spent[:, 1 + 2 * index], spent[:, 2 + 2 * index]):
                median = np.median(times)
                cells += [f"{median:.0f}", spread(times / copying), f"{batch.nbytes / median:,.0f}"]
            table.add_row(codec.name, f"{len(payload.data):,}", *cells)
        console.print(table)


def spread(ratios: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    """`12 (10-15)`: median, and between which 80 % of the rounds lie."""
    low, high = np.quantile(ratios, [0.1, 0.9])
    return f"{np.median(ratios):.1f} ({low:.1f}-{high:.1f})"


if __name__ == "__main__":
    typer.run(main)
