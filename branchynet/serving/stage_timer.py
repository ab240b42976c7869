"""What a node's own stages and codecs take, timed on its compute thread between the requests that it serves.

Every call is one stage on one batch, or one sample through one codec, and waits for the thread like any other: a
request that comes meanwhile waits for one of these calls at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from branchynet.codecs import Codec
from branchynet.errors import InvalidInput, TooLarge, Unavailable
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Array, Runner
from branchynet.serving.prediction import ServedModel
from branchynet.serving.validation import check_batch
from branchynet.serving.worker import Worker
from branchynet.system import peak_rss_bytes

__all__ = ["MAX_IMAGES", "MAX_ROUNDS", "CodecTimes", "NodeProfile", "Prober", "Spread"]

# What one caller may ask for, so that a node is never busy with a profile for long.
MAX_IMAGES = 64
MAX_BATCHES = 8
MAX_ROUNDS = 100
MAX_CODECS = 32
# Rounds that are not counted: caches and buffers are filled in them.
WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Spread:
    """The quartiles of measured milliseconds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values_ms: Sequence[float]) -> Spread:
        """The quartiles of *values_ms*, one or more."""
        return cls(*map(float, np.percentile(values_ms, (25, 50, 75))))


@dataclass(frozen=True, slots=True)
class CodecTimes:
    """Coding one sample with *codec* at *cut*."""

    cut: int
    codec: str
    encode_ms: Spread
    decode_ms: Spread


@dataclass(frozen=True)
class NodeProfile:
    """What a node is and what its stages [first, last) take.

    *stage_ms*: one row a stage held, one `Spread` for each of *batches*. *rss_bytes*, *peak_rss_bytes*: memory of its
    whole process, now and at most.
    """

    model: str
    content_hash: str
    stages: tuple[int, int]
    batches: tuple[int, ...]
    stage_ms: tuple[tuple[Spread, ...], ...]
    codecs: tuple[CodecTimes, ...]
    engine: str
    threads: int
    cores: int
    rss_bytes: int
    peak_rss_bytes: int


class Prober:
    """Times the stages of *network*, and codecs at its cuts, on the *worker* of a node.

    *served* is what the node serves, *codecs_at* says which of some names are codecs for a cut, *input_shape* is that
    of one sample at the node's first cut. One profile at a time.
    """

    def __init__(
        self,
        served: ServedModel,
        network: Runner,
        worker: Worker,
        codecs_at: Callable[[int, Sequence[str]], list[Codec]],
        input_shape: tuple[int, ...],
    ) -> None:
        self._served = served
        self._network = network
        self._worker = worker
        self._codecs_at = codecs_at
        self._input_shape = input_shape
        self._busy = False

    async def profile(
        self,
        images: NDArray[np.generic],
        batches: tuple[int, ...],
        rounds: int,
        codecs: Sequence[str],
        *,
        threads: int,
    ) -> NodeProfile:
        """Time every stage at each of *batches*, and the *codecs* named, *rounds* times in turn.

        *images*: uint8 [N, C, H, W]; a node that does not hold the first stage takes drawn maps instead. *threads*
        are reported as they are. Cancelled, it ends after the call that runs. Raises `InvalidInput` or
        `TooLarge` for more than one caller may ask, before anything is timed, and `Unavailable` while another profile
        is made.
        """
        self._check(images, batches, rounds)
        by_cut = self._codecs(codecs)
        if self._busy:
            raise Unavailable("this node makes a profile for somebody else; ask again when that is done")
        self._busy = True
        try:
            maps = await self._maps(images)
            stage_ms = await self._time_stages(maps, batches, rounds)
            codec_times = [
                timed
                for cut, named in by_cut.items()
                for timed in await self._time_codecs(cut, named, maps[cut - self._network.first], rounds)
            ]
        finally:
            self._busy = False
        rss_bytes = psutil.Process().memory_info().rss
        return NodeProfile(
            model=self._served.model,
            content_hash=self._served.content_hash,
            stages=(self._network.first, self._network.last),
            batches=batches,
            stage_ms=stage_ms,
            codecs=tuple(codec_times),
            engine=self._network.engine.value,
            threads=threads,
            cores=psutil.cpu_count() or 1,
            rss_bytes=rss_bytes,
            peak_rss_bytes=max(peak_rss_bytes(), rss_bytes),  # the kernel counts the two at different moments
        )

    def _check(self, images: NDArray[np.generic], batches: tuple[int, ...], rounds: int) -> None:
        most = min(MAX_IMAGES, self._served.max_batch)
        check_batch(images, np.dtype(np.uint8), self._served.input_shape, most, "images to profile on")
        if batches[:1] != (1,) or list(batches) != sorted(set(batches)) or batches[-1] > len(images):
            raise InvalidInput(
                f"batches are {batches[:16]}; they must ascend from 1 to at most {len(images)}, the images"
            )
        if len(batches) > MAX_BATCHES:
            raise TooLarge(f"{len(batches)} batch sizes are asked for, this node times at most {MAX_BATCHES}")
        if rounds < 1:
            raise InvalidInput(f"rounds is {rounds}; it must be at least 1")
        if rounds > MAX_ROUNDS:
            raise TooLarge(f"rounds is {rounds}, this node times at most {MAX_ROUNDS}")

    def _codecs(self, names: Sequence[str]) -> dict[int, list[Codec]]:
        """Those of *names* that are for each cut at which this node codes."""
        if len(names) > MAX_CODECS:
            raise TooLarge(f"{len(names)} codecs are asked for, this node times at most {MAX_CODECS}")
        last = min(self._network.last, self._network.total_stages - 1)
        wanted = list(dict.fromkeys(names))
        return {cut: self._codecs_at(cut, wanted) for cut in range(self._network.first, last + 1)}

    async def _maps(self, images: NDArray[np.generic]) -> list[Array]:
        """What there is of *images* at each cut from the first to the last that is held."""
        first = self._network.first
        x: Array = images.copy()
        if first > 0:  # ReLU leaves about half of a map at zero
            drawn = np.random.default_rng(0).standard_normal((len(images), *self._input_shape), dtype=np.float32)
            x = np.maximum(drawn, 0)
        maps = [x]
        for stage in range(first, self._network.last):
            features, _ = (await self._worker.run(self._network.run, stage, maps[-1])).value
            maps.append(features)
        return maps

    async def _time_stages(
        self, maps: list[Array], batches: tuple[int, ...], rounds: int
    ) -> tuple[tuple[Spread, ...], ...]:
        """Each stage with its exit and the rule's score; the stages take turns, so that no one has all slow moments."""
        first, never = self._network.first, ExitRule.never(self._network.exits)
        spent: list[list[list[float]]] = [[[] for _ in batches] for _ in maps[:-1]]
        for _ in range(WARM_UP + rounds):
            for index, row in enumerate(spent):
                stage = first + index
                for size, times in zip(batches, row, strict=True):
                    run = self._network.resume
                    done = await self._worker.run(run, maps[index][:size], stage, stage + 1, never)
                    times.append(done.compute_ms)
        return tuple(tuple(Spread.of(times[WARM_UP:]) for times in row) for row in spent)

    async def _time_codecs(self, cut: int, codecs: list[Codec], maps: Array, rounds: int) -> list[CodecTimes]:
        """Each of *codecs* on one sample of *maps* after the other."""
        spent: list[tuple[list[float], list[float]]] = [([], []) for _ in codecs]
        for number in range(WARM_UP + rounds):
            sample = maps[number % len(maps)][None]
            for codec, (encoding, decoding) in zip(codecs, spent, strict=True):
                coded = await self._worker.run(codec.encode, sample)
                decoded = await self._worker.run(codec.decode, coded.value, sample.shape[1:], 1)
                encoding.append(coded.compute_ms)
                decoding.append(decoded.compute_ms)
        return [
            CodecTimes(cut, codec.name, Spread.of(encoding[WARM_UP:]), Spread.of(decoding[WARM_UP:]))
            for codec, (encoding, decoding) in zip(codecs, spent, strict=True)
        ]
