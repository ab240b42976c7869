"""What each codec costs and saves at each cut of a network: bytes, microseconds, accuracy, on real images.

Every map is encoded by itself, as an edge with one camera sends it; the network goes on from what was decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from branchynet.artifact.artifact import Artifact
from branchynet.codecs import BOTTLENECK, Codec, FixedRanges, Payload
from branchynet.data.datasets import Dataset
from branchynet.evaluation.timings import time_in_turn
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Array, Runner, batch_slices

__all__ = [
    "FOR_IMAGES",
    "FOR_MAPS",
    "FOR_PLANS",
    "CodecFigures",
    "CodedOutcomes",
    "calibrated_ranges",
    "logits_from",
    "maps_at",
    "outcomes_through",
    "study_codecs",
    "times_us",
]

FOR_IMAGES = ("raw", "raw+zstd", "png", "webp", "jpeg-90", "jpeg-75", "webp-80")
FOR_MAPS = (
    "fp32",
    "fp32+zstd",
    "fp16",
    "fp16+mask+zstd",
    "uint8",
    "uint8+mask",
    "uint8+zstd",
    "uint8+mask+zstd",
    "uint4",
    "uint4+mask",
    "uint4+zstd",
    "uint4+mask+zstd",
    "uint8-calibrated+zstd",
    "uint4-calibrated+zstd",
    BOTTLENECK,
)
# Of each kind one that is worth its time; what a plan chooses among unless it is given others.
FOR_PLANS = (
    *("raw+zstd", "webp", "webp-80", "jpeg-75"),
    *("fp16+mask+zstd", "uint8+zstd", "uint8-calibrated+zstd", "uint4+zstd", "uint4-calibrated+zstd"),
    BOTTLENECK,
)
CALIBRATION_IMAGES = 1_000
# Of each cut; large maps have enough values in fewer images.
CALIBRATION_VALUES = 16 << 20
TIMED_IMAGES = 100
TIMED_PASSES = 5


@dataclass(frozen=True, slots=True)
class CodecFigures:
    """One codec at one cut.

    *payload_bytes*: mean of one sample that is offloaded. *offloaded*: share 0..1 of the samples that the rule
    offloads there. *accuracy*: under the rule, with everything behind the cut reckoned from the decoded map;
    *final_accuracy*: of the final exit alone. *encode_us*, *decode_us*: medians for one sample, *copy_us* that of
    copying its tensor, taken in turn with them.
    """

    cut: int
    codec: str
    payload_bytes: float
    offloaded: float
    accuracy: float
    final_accuracy: float
    encode_us: float
    decode_us: float
    copy_us: float

    @property
    def mean_bytes(self) -> float:
        """Payload bytes per image, those that leave before the cut included."""
        return self.payload_bytes * self.offloaded


@dataclass(frozen=True, eq=False)
class CodedOutcomes:
    """What becomes of N samples when *codec* is at a cut.

    *payload_bytes*: int64 [N]. *table*: their outcomes, with everything behind the cut reckoned from the decoded map.
    """

    codec: Codec
    payload_bytes: NDArray[np.int64]
    table: OutcomeTable


def study_codecs(
    artifact: Artifact,
    network: Runner,
    table: OutcomeTable,
    dataset: Dataset,
    on_image: Callable[[int], None] = lambda _: None,
) -> Iterator[list[CodecFigures]]:
    """The figures of every codec, cut by cut; *table* holds the outcomes of *network* on *dataset* without any.

    *on_image* receives how many images the cut has done. Calibrated codecs and bottlenecks are left out where
    *artifact* has none.
    """
    for cut in range(network.total_stages):
        codecs = artifact.codecs_at(cut, FOR_MAPS if cut else FOR_IMAGES)
        yield _study_cut(network, artifact.manifest.rule, table, dataset, cut, codecs, on_image)


def calibrated_ranges(network: Runner, dataset: Dataset) -> dict[int, FixedRanges]:
    """Ranges for calibrated codecs at every cut behind a stage, from some of the held-out images of *dataset*."""
    chosen = np.random.default_rng(0).permutation(len(dataset))[:CALIBRATION_IMAGES]
    images = dataset.images[np.sort(chosen)]
    maps: dict[int, list[Array]] = {cut: [] for cut in range(1, network.total_stages)}
    for batch in batch_slices(images):
        x: Array = images[batch]
        for cut, kept in maps.items():
            x, _ = network.run(cut - 1, x)
            if batch.start * x[0].size < CALIBRATION_VALUES:
                kept.append(x)
    return {cut: FixedRanges.calibrated(np.concatenate(kept)) for cut, kept in maps.items()}


def outcomes_through(
    network: Runner,
    table: OutcomeTable,
    dataset: Dataset,
    cut: int,
    codecs: Sequence[Codec],
    on_image: Callable[[int], None] = lambda _: None,
) -> list[CodedOutcomes]:
    """What each of *codecs* at *cut* makes of *dataset*; *table* holds the outcomes without any.

    *on_image* receives how many images are done.
    """
    before = network.exits_before(cut)
    sizes = np.zeros((len(codecs), len(dataset)), dtype=np.int64)
    logits = [table.logits.copy() for _ in codecs]
    for rows in batch_slices(dataset.images):
        maps = maps_at(network, dataset.images[rows], cut)
        for index, codec in enumerate(codecs):
            payloads = [codec.encode(sample[None]) for sample in maps]
            sizes[index, rows] = [len(payload.data) for payload in payloads]
            decoded = [codec.decode(payload, maps.shape[1:], 1) for payload in payloads]
            logits[index][before:, rows] = logits_from(network, np.concatenate(decoded), cut)
        on_image(rows.stop)
    return [
        CodedOutcomes(codec, sizes[index], replace(table, logits=logits[index])) for index, codec in enumerate(codecs)
    ]


def _study_cut(
    network: Runner,
    rule: ExitRule,
    table: OutcomeTable,
    dataset: Dataset,
    cut: int,
    codecs: Sequence[Codec],
    on_image: Callable[[int], None],
) -> list[CodecFigures]:
    coded = outcomes_through(network, table, dataset, cut, codecs, on_image)
    offloads = table.exit_of(rule) >= network.exits_before(cut)
    times = times_us(codecs, maps_at(network, dataset.images[:TIMED_IMAGES], cut))
    return [
        CodecFigures(
            cut,
            through.codec.name,
            float(through.payload_bytes[offloads].mean()) if offloads.any() else 0.0,
            float(offloads.mean()),
            through.table.apply(rule).accuracy,
            float(through.table.correct[-1].mean()),
            times[f"{through.codec.name}/encode"],
            times[f"{through.codec.name}/decode"],
            times["copy"],
        )
        for through in coded
    ]


def maps_at(network: Runner, images: Array, cut: int) -> Array:
    """What there is at *cut* of *images*, uint8 [B, C, H, W]: themselves at cut 0, else float32 [B, …]."""
    x = images
    for index in range(cut):
        x, _ = network.run(index, x)
    return x


def logits_from(network: Runner, x: Array, cut: int) -> NDArray[np.float32]:
    """Logits of the exits behind *cut* for the maps *x* there, none of them taken: float32 [E, B, C]."""
    scored = []
    for index in range(cut, network.total_stages):
        x, logits = network.run(index, x)
        if logits is not None:
            scored.append(logits)
    return np.stack(scored)


def times_us(codecs: Sequence[Codec], maps: Array, passes: int = TIMED_PASSES) -> dict[str, float]:
    """Median microseconds of CODEC/encode and CODEC/decode for one of *maps*, and of a `copy` of it, taken in turn."""
    contenders: dict[str, Callable[[int], object]] = {"copy": lambda i: maps[i : i + 1].copy()}
    for codec in codecs:
        payloads = [codec.encode(sample[None]) for sample in maps]
        contenders[f"{codec.name}/encode"] = partial(_encode_one, codec, maps)
        contenders[f"{codec.name}/decode"] = partial(_decode_one, codec, payloads)
    timed = time_in_turn({"numpy": contenders}, len(maps), passes).medians()["numpy"]
    return {name: 1e3 * ms for name, ms in timed.items()}


def _encode_one(codec: Codec, maps: Array, index: int) -> object:
    return codec.encode(maps[index : index + 1])


def _decode_one(codec: Codec, payloads: Sequence[Payload], index: int) -> object:
    return codec.decode(payloads[index], payloads[index].shape[1:], 1)
