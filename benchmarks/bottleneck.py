"""What a trained bottleneck costs and saves on the real test set, beside pictures of as many bytes, and sent in parts.

    python benchmarks/bottleneck.py [--data FOLDER] [--json FILE] NAME CUT

Everything is at the artifact's own rule. *Pictures*: what the rule offloads goes as JPEG or WebP to the whole network
in the cloud instead, at the best quality that takes no more bytes an offload (or at the worst there is). *In parts*:
the channels that matter most (of a transform: the coefficients that vary most) are sent first, and the rest only if the
cloud's exit is not confident; how confident it must be is chosen on the held-out training images.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from branchynet.artifact.artifact import Artifact
from branchynet.artifact.manifest import Manifest
from branchynet.codecs import BottleneckCodec, named_codec
from branchynet.codecs.ans import MARK_BYTES, LevelTables
from branchynet.codecs.bottleneck import TransformShape
from branchynet.data import datasets
from branchynet.data.datasets import Dataset
from branchynet.evaluation.codec_study import logits_from, maps_at
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.outcomes import OutcomeTable
from branchynet.exits.paired_tests import compare_paired
from branchynet.network.runner import Runner
from branchynet.placement.serving_profile import CodecCost
from branchynet.rpc.message_sizes import codec_cost
from branchynet.training.bottleneck import macs_of

console = Console(width=120)
QUALITIES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90)
# gRPC's and HTTP/2's frames around a further part of a message whose stream is open.
PART_FRAMING_BYTES = 14
# What answering on the first part may cost on the held-out images.
ACCURACY_DROP_POINTS = 0.1
ROUND_TRIPS_MS = (2, 10, 50)

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Offloads:
    """A labelled set under the rule: the outcomes of all, the images and maps [M, …] of those that are offloaded."""

    table: OutcomeTable
    offloaded: Bools
    right_before: Bools
    images: NDArray[np.uint8]
    maps: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, manifest: Manifest, network: Runner, dataset: Dataset, cut: int) -> Offloads:
        """What *network* makes of *dataset*, and what its rule sends on at *cut*."""
        table = measure_outcomes(network, manifest.cost, dataset)
        leaving = table.exit_of(manifest.rule)
        offloaded = leaving >= network.exits_before(cut)
        images = dataset.images[offloaded]
        maps = np.concatenate([maps_at(network, part, cut) for part in np.array_split(images, len(images) // 500 + 1)])
        right = table.correct[leaving, np.arange(len(dataset))]
        return cls(table, offloaded, right, images, maps, dataset.labels[offloaded])

    def right_after(self, predicted: NDArray[np.int64]) -> Bools:
        """Whether each sample is answered rightly when the offloaded ones are answered with *predicted*, bool [N]."""
        right = self.right_before.copy()
        right[self.offloaded] = predicted == self.labels
        return right


def answers(manifest: Manifest, network: Runner, maps: NDArray[Any], cut: int) -> NDArray[np.int64]:
    """What the exits behind *cut* say about *maps* [M, …] under the artifact's rule: labels [M]."""
    labels = []
    for part in np.array_split(maps, len(maps) // 500 + 1):
        rule = manifest.rule
        labels.append(network.resume(part, cut, network.total_stages, rule).logits.argmax(axis=1))
    return np.concatenate(labels)


def row(
    name: str, manifest: Manifest, offloads: Offloads, predicted: NDArray[np.int64], payload: float, message: float
) -> dict[str, Any]:
    """The figures of one way to send the offloads, which are then answered with *predicted*."""
    raw = float(np.prod(manifest.architecture.input_shape))
    right, uplink = offloads.right_after(predicted), message * offloads.offloaded.mean()
    compared = compare_paired(right, offloads.right_before)
    return {
        "codec": name,
        "payload_bytes": round(payload, 1),
        "message_bytes": round(message, 1),
        "payload_of_raw": round(payload / raw, 4),
        "message_of_raw": round(message / raw, 4),
        "mean_uplink_bytes": round(float(uplink), 1),
        "raw_to_uplink": round(raw / float(uplink), 1),
        "accuracy": round(float(right.mean()), 5),
        "change": round(compared.difference, 5),
        "interval": [round(end, 5) for end in compared.interval],
    }


def images_at_equal_size(
    manifest: Manifest, network: Runner, offloads: Offloads, kind: str, budget: float
) -> dict[str, Any]:
    """Offloads as pictures of *kind* at the best quality within *budget* bytes each, answered by the final exit."""
    chosen = None
    for quality in QUALITIES:
        codec = named_codec(f"{kind}-{quality}")
        payloads = [codec.encode(image[None]) for image in offloads.images]
        size = float(np.mean([len(payload.data) for payload in payloads]))
        if chosen is not None and size > budget:
            break
        chosen = codec, payloads, size
    assert chosen is not None
    codec, payloads, size = chosen
    decoded = np.concatenate([codec.decode(payload, payload.shape[1:], 1) for payload in payloads])
    parts = np.array_split(decoded, len(decoded) // 500 + 1)
    predicted = np.concatenate([logits_from(network, part, 0)[-1].argmax(axis=1) for part in parts])
    message = codec_cost(manifest, network, CodecCost(0, codec.name, size, 0.0, 0.0)).message_bytes
    return row(codec.name, manifest, offloads, predicted, size, message)


def entropies(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the probabilities that *logits* [M, classes] give, in nats [M]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    shares = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    return -(shares * np.log(shares + 1e-12)).sum(axis=1)


class InParts:
    """A bottleneck whose levels are sent in two parts, the channels that matter most first."""

    def __init__(self, codec: BottleneckCodec, network: Runner, cut: int, held: Offloads) -> None:
        self.codec, self.network, self.cut = codec, network, cut
        channels = codec.shape.code_shape[0]
        # A transform's groups are in the order of how much they vary.
        order = np.arange(channels) if isinstance(codec.shape, TransformShape) else self._by_loss(held)
        self.first = np.zeros(channels, np.bool_)
        self.first[order[: (channels + 1) // 2]] = True

    def _by_loss(self, held: Offloads) -> NDArray[np.int64]:
        """The channels, first that which changes the answers most if it is not sent."""
        levels = self.levels_of(held.maps)
        whole = self.final(levels)
        losses = []
        for channel in range(levels.shape[1]):
            without = levels.copy()
            without[:, channel] = self._usual()[channel]
            losses.append(float(np.mean(np.abs(self.final(without) - whole))))
        return np.argsort(losses)[::-1]

    def levels_of(self, maps: NDArray[np.float32]) -> NDArray[np.uint8]:
        """uint8 [M, channels, …]."""
        return np.stack([self.codec.halves.levels(sample) for sample in maps]).reshape(-1, *self.codec.shape.code_shape)

    def final(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The final exit's logits on what *levels* stand for."""
        maps = np.stack([self.codec.halves.features(sample.reshape(-1)) for sample in levels])
        return np.concatenate(
            [logits_from(self.network, part, self.cut)[-1] for part in np.array_split(maps, len(maps) // 500 + 1)]
        )

    def half(self, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """*levels* as the cloud knows them after the first part: the others are what they mostly are."""
        known = levels.copy()
        known[:, ~self.first] = self._usual()[~self.first]
        return known

    def part_bytes(self, levels: NDArray[np.uint8]) -> tuple[float, float]:
        """Mean bytes of the first part with its mark, and of the second, which needs none."""
        places = np.repeat(self.first, levels[0, 0].size)
        flat = levels.reshape(len(levels), -1)
        sizes = []
        for chosen in (places, ~places):
            tables = LevelTables(self.codec.tables.frequencies[chosen])
            sizes.append(float(np.mean([len(tables.encode(row[chosen], self.codec.mark)) for row in flat])))
        return sizes[0], sizes[1] - MARK_BYTES

    def _usual(self) -> NDArray[np.uint8]:
        usual: NDArray[np.int64] = self.codec.tables.frequencies.argmax(axis=1)
        return usual.astype(np.uint8).reshape(self.codec.shape.code_shape)


def in_parts(codec: BottleneckCodec, network: Runner, cut: int, held: Offloads, test: Offloads) -> dict[str, Any]:
    """What two parts save on *test*; the confidence that they stop at is chosen on *held*."""
    parts = InParts(codec, network, cut, held)
    levels = parts.levels_of(held.maps)
    half, whole = parts.final(parts.half(levels)), parts.final(levels)
    scores = entropies(half)
    right_half, right_whole = half.argmax(1) == held.labels, whole.argmax(1) == held.labels
    order = np.argsort(scores)
    lost = np.cumsum(right_whole[order].astype(int) - right_half[order]) / len(held.table.labels)
    stops = np.flatnonzero(lost <= ACCURACY_DROP_POINTS / 100)
    threshold = float(scores[order][stops[-1]]) if len(stops) else -1.0
    levels = parts.levels_of(test.maps)
    half, whole = parts.final(parts.half(levels)), parts.final(levels)
    stopped = entropies(half) <= threshold
    predicted = np.where(stopped, half.argmax(1), whole.argmax(1))
    first, rest = parts.part_bytes(levels)
    saved = float(stopped.mean()) * rest - PART_FRAMING_BYTES * float(1 - stopped.mean())
    change = (test.right_after(predicted).mean() - test.right_after(whole.argmax(1)).mean()).item()
    return {
        "first_bytes": round(first, 1),
        "rest_bytes": round(rest, 1),
        "stopped": round(float(stopped.mean()), 4),
        "change": round(change, 5),
        "saved_bytes_an_offload": round(saved, 1),
        "kbit_s_below_which_the_rest_has_not_left_before_the_answer": {
            str(ms): round(8 * (rest + PART_FRAMING_BYTES) / ms, 1) for ms in ROUND_TRIPS_MS
        },
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print *rows* as a table."""
    table = Table()
    for heading in ("sent", "payload", "of raw", "message", "of raw", "mean uplink", "raw is", "accuracy %", "change"):
        table.add_column(heading, justify="left" if heading == "sent" else "right")
    for figures in rows:
        low, high = figures["interval"]
        table.add_row(
            figures["codec"],
            f"{figures['payload_bytes']:,.0f}",
            f"{figures['payload_of_raw']:.3f}x",
            f"{figures['message_bytes']:,.0f}",
            f"{figures['message_of_raw']:.3f}x",
            f"{figures['mean_uplink_bytes']:,.1f}",
            f"{figures['raw_to_uplink']:.1f}x",
            f"{100 * figures['accuracy']:.2f}",
            f"{100 * figures['change']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
        )
    console.print(table)


def main() -> None:
    """Measure one artifact's bottleneck and print it."""
    parser = argparse.ArgumentParser(description="A trained bottleneck on the real test set.")
    parser.add_argument("name")
    parser.add_argument("cut", type=int)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    opened = Artifact.open(asked.name)
    manifest, network = opened.manifest, opened.runner(engine=opened.reference_engine)
    cut, codec = asked.cut, opened.bottleneck(asked.cut)
    assert isinstance(codec, BottleneckCodec)
    dataset = datasets.load(manifest.dataset, "test", asked.data)
    test = Offloads.of(manifest, network, dataset, cut)
    held = Offloads.of(manifest, network, opened.calibration_split(asked.data)[1], cut)
    payloads = [codec.encode(sample[None]) for sample in test.maps]
    size = float(np.mean([len(payload.data) for payload in payloads]))
    decoded = np.concatenate([codec.decode(payload, payload.shape[1:], 1) for payload in payloads])
    message = codec_cost(manifest, network, CodecCost(cut, codec.name, size, 0.0, 0.0)).message_bytes
    rows = [row(codec.name, manifest, test, answers(manifest, network, decoded, cut), size, message)]
    rows += [images_at_equal_size(manifest, network, test, kind, size) for kind in ("jpeg", "webp")]
    encoder, decoder = macs_of(codec.shape)
    edge = sum(stage.trunk_macs + stage.head_macs for stage in manifest.cost.stages[:cut])
    console.print(
        f"{manifest.name}, cut {cut}, {len(dataset):,} test images, {100 * test.offloaded.mean():.1f} % offloaded, "
        f"{100 * test.right_before.mean():.2f} % uncut; encoder {encoder:,} MACs, {100 * encoder / edge:.1f} % of the "
        f"edge's {edge:,}; decoder {decoder:,}"
    )
    show(rows)
    progressive = in_parts(codec, network, cut, held, test)
    console.print(
        f"in parts: {progressive['first_bytes']:.0f} + {progressive['rest_bytes']:.0f} bytes; "
        f"{100 * progressive['stopped']:.1f} % of the offloads stop after the first "
        f"({100 * progressive['change']:+.2f} points), which saves "
        f"{progressive['saved_bytes_an_offload']:+.1f} bytes an offload with the framing counted; "
        "the rest is still unsent when the cloud's answer can be there only on uplinks below "
        + ", ".join(
            f"{limit:g} kbit/s at {ms} ms"
            for ms, limit in progressive["kbit_s_below_which_the_rest_has_not_left_before_the_answer"].items()
        )
    )
    if asked.json:
        figures = {"artifact": manifest.name, "cut": cut, "rows": rows, "in_parts": progressive}
        figures |= {"encoder_macs": encoder, "decoder_macs": decoder, "edge_macs": edge}
        asked.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
