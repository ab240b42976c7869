"""`branchynet study codecs`: what each codec costs and saves at each cut."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cli.measuring import EngineChoice, Measuring
from cli.options import DataOption, JsonOption, console, progress_bar, write_json

if TYPE_CHECKING:
    from branchynet.artifact.manifest import Manifest
    from branchynet.evaluation.codec_study import CodecFigures
    from branchynet.network.runner import Runner

__all__ = ["codecs"]

HEADINGS = ("codec", "bytes", "of raw", "mean uplink", "of raw", "accuracy %", "change", "encode us", "decode us")


def codecs(
    name: Annotated[str, typer.Argument(help="Shipped artifact, run in runs/, or folder.")] = "lenet-fashion",
    data: DataOption = None,
    sample: Annotated[bool, typer.Option("--sample", help="Use the 1,000 shipped Fashion-MNIST images.")] = False,
    engine: Annotated[
        EngineChoice | None, typer.Option(help="What runs the layers. Default: what the results were measured on.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Bytes, time and accuracy of every codec at every cut, on the test set.

    Means over the images that are offloaded there; the uplink counts whole messages.
    """
    figures, source = _measure(name, Measuring(engine, timing_images=0, passes=0, data=data), sample=sample)
    write_json(json_file, figures)
    console.print(
        f"{figures['artifact']} on {figures['images']:,} images of {source}: {100 * figures['accuracy']:.2f} % under "
        f"its rule without any codec; one image is {figures['raw_bytes']:,} bytes as it is"
    )
    for _, rows in itertools.groupby(figures["codecs"], key=lambda row: row["cut"]):
        _print_cut(list(rows))


def _measure(name: str, measuring: Measuring, *, sample: bool) -> tuple[dict[str, Any], str]:
    """The figures of each cut of the artifact *name*, beside the raw image, and where the images come from."""
    from branchynet.artifact.artifact import Artifact
    from branchynet.evaluation.codec_study import study_codecs
    from branchynet.evaluation.evaluation import measure_outcomes

    artifact = Artifact.open(name)
    manifest, network = artifact.manifest, artifact.runner(engine=measuring.engines(artifact)[-1])
    dataset = measuring.test_images(artifact, sample=sample)
    raw_bytes = math.prod(manifest.architecture.input_shape)
    rows: list[dict[str, Any]] = []
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=(1 + manifest.stages) * len(dataset), note="without a codec")
        table = measure_outcomes(
            network, manifest.cost, dataset, on_image=lambda done: bar.update(task, completed=done)
        )
        plain = table.apply(manifest.rule).accuracy
        done = len(dataset)

        def on_image(images: int) -> None:
            bar.update(task, completed=done + images, note="through every codec")

        for of_cut in study_codecs(artifact, network, table, dataset, on_image):
            done += len(dataset)
            rows += [_as_json(row, raw_bytes, _message_bytes(manifest, network, row), plain) for row in of_cut]
    figures = {
        "artifact": manifest.name,
        "images": len(dataset),
        "accuracy": plain,
        "raw_bytes": raw_bytes,
        "codecs": rows,
    }
    return figures, dataset.source


def _message_bytes(manifest: Manifest, network: Runner, row: CodecFigures) -> float:
    from branchynet.placement.serving_profile import CodecCost
    from branchynet.rpc.message_sizes import codec_cost

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
