"""`branchynet evaluate --codecs`: what each codec costs and saves at each cut."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cli.evaluating import Measuring
from cli.output import console, progress_bar

if TYPE_CHECKING:
    from branchynet.engine import Runner
    from branchynet.manifest import Manifest
    from branchynet.training.codec_study import CodecFigures

__all__ = ["codec_tables"]

HEADINGS = ("codec", "bytes", "of raw", "mean uplink", "of raw", "accuracy %", "change", "encode us", "decode us")


def codec_tables(name: str, measuring: Measuring, *, sample: bool) -> dict[str, Any]:
    """Print a table for each cut of the artifact *name*, beside the raw image; the figures."""
    from branchynet import artifact as artifacts
    from branchynet.models import zoo
    from branchynet.training.codec_study import study_codecs
    from branchynet.training.evaluation import measure_outcomes

    folder = zoo.find(name)
    engines = measuring.engines(artifacts.read_manifest(folder))
    manifest, network = artifacts.load_runner(folder, engine=engines[-1])
    dataset = measuring.test_images(manifest, sample=sample)
    raw_bytes = math.prod(manifest.architecture.input_shape)
    rows: list[dict[str, Any]] = []
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=(1 + manifest.stages) * len(dataset), note="without a codec")
        table = measure_outcomes(
            network, manifest.cost, dataset, on_image=lambda done: bar.update(task, completed=done)
        )
        plain = table.apply(manifest.rule).accuracy
        console.print(
            f"{manifest.name} on {len(dataset):,} images of {dataset.source}: {100 * plain:.2f} % under its rule "
            f"without any codec; one image is {raw_bytes:,} bytes as it is"
        )
        done = len(dataset)

        def on_image(of_cut: int) -> None:
            bar.update(task, completed=done + of_cut, note="through every codec")

        for figures in study_codecs(manifest, network, table, dataset, on_image):
            done += len(dataset)
            rows += [_as_json(row, raw_bytes, _message_bytes(manifest, network, row), plain) for row in figures]
            _print_cut(rows[-len(figures) :])
    return {
        "artifact": manifest.name,
        "images": len(dataset),
        "accuracy": plain,
        "raw_bytes": raw_bytes,
        "codecs": rows,
    }


def _message_bytes(manifest: Manifest, network: Runner, row: CodecFigures) -> float:
    from branchynet.decisions.timing import CodecCost
    from orchestrator.probing import codec_cost

    return codec_cost(manifest, network, CodecCost(row.cut, row.codec, row.payload_bytes, 0.0, 0.0)).message_bytes


def _as_json(row: CodecFigures, raw_bytes: int, message_bytes: float, plain: float) -> dict[str, Any]:
    return {
        "cut": row.cut,
        "codec": row.codec,
        "payload_bytes": round(row.payload_bytes, 1),
        "message_bytes": round(message_bytes, 1),
        "offloaded": round(row.offloaded, 6),
        "mean_uplink_bytes": round(message_bytes * row.offloaded, 1),
        "of_raw": round(row.payload_bytes / raw_bytes, 4),
        "mean_of_raw": round(message_bytes * row.offloaded / raw_bytes, 4),
        "accuracy": round(row.accuracy, 6),
        "accuracy_change": round(row.accuracy - plain, 6),
        "final_accuracy": round(row.final_accuracy, 6),
        "encode_us": round(row.encode_us, 1),
        "decode_us": round(row.decode_us, 1),
        "copy_us": round(row.copy_us, 2),
    }


def _print_cut(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    table = Table(title=f"cut {first['cut']}: {100 * first['offloaded']:.1f} % of the images are offloaded there")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "codec" else "right")
    for row in rows:
        table.add_row(
            row["codec"],
            f"{row['payload_bytes']:,.0f}",
            f"{row['of_raw']:.2f}x",
            f"{row['mean_uplink_bytes']:,.0f}",
            f"{row['mean_of_raw']:.3f}x",
            f"{100 * row['accuracy']:.2f}",
            f"{100 * row['accuracy_change']:+.2f}",
            f"{row['encode_us']:.0f}",
            f"{row['decode_us']:.0f}",
        )
    console.print(table)
    console.print(
        "bytes: of the payload; mean uplink: of whole messages, per image; "
        f"copying the tensor takes {first['copy_us']:.1f} us"
    )
