"""`branchynet profile`: what stages, messages and codecs take on this machine, for `plan`, `simulate`, `calibrate`."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from branchynet.engine import Engine
from cli.output import ArtifactOption, DataOption, JsonOption, console, progress_bar, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from branchynet.decisions.timing import ServingProfile
    from branchynet.manifest import Manifest
    from branchynet.training.datasets import Dataset
    from orchestrator.measuring import Profiled

__all__ = ["CodecsOption", "codec_names", "measure_profile", "profile"]

IMAGES = 64
BATCHES = (1, 8, 32)

CodecsOption = Annotated[
    str | None, typer.Option(help="Codecs, with commas between them; `all` for those of evaluate --codecs.")
]


def profile(
    artifact: ArtifactOption = "lenet-fashion",
    data: DataOption = None,
    engine: Annotated[
        Engine | None, typer.Option(help="What runs the layers, here and in the nodes. Default: eager if it can.")
    ] = None,
    codecs: CodecsOption = None,
    out: Annotated[Path, typer.Option(help="Where the profile is written.", dir_okay=False)] = Path("out/profile.json"),
    json_file: JsonOption = None,
) -> None:
    """Time every stage by batch size and every codec on one thread, then real nodes on this machine; takes seconds.

    OUT is what --profile of plan, simulate and calibrate read. So is the file of --json, which holds all else that is
    printed too.
    """
    from branchynet.manifest import read_manifest
    from branchynet.models import zoo
    from branchynet.training.machine import describe_machine
    from orchestrator.measuring import write_profile

    manifest = read_manifest(zoo.find(artifact))
    chosen = engine or manifest.own_engine
    images = _images(manifest, data)
    profiled = measure_profile(artifact, images, codec_names(codecs), chosen)
    stages = _stage_rows(manifest, profiled)
    _print_stages(f"{manifest.name}, engine {chosen.value}, one thread", stages)
    _print_cuts(manifest, profiled.profile)
    console.print(f"codecs: on {len(images)} images of {images.source}", soft_wrap=True)
    console.print(_words(profiled), soft_wrap=True)
    write_profile(out, profiled.profile)
    figures = {
        "artifact": manifest.name,
        "engine": chosen.value,
        "machine": describe_machine(),
        "images": {"count": len(images), "source": images.source},
        "stages": stages,
        "edge_factor": profiled.edge_factor,
        "cloud_factor": profiled.cloud_factor,
        "rss_bytes": profiled.rss_bytes,
    }
    write_json(json_file, {**asdict(profiled.profile), **figures})
    console.print(f"written: {out}", soft_wrap=True)


def codec_names(text: str | None) -> Sequence[str]:
    """The codecs that an option names, the usual ones without it; `InvalidInput` for a name that is none."""
    from branchynet.codecs import BOTTLENECK, named_codec
    from branchynet.training.codec_study import FOR_IMAGES, FOR_MAPS, FOR_PLANS

    if text is None:
        return FOR_PLANS
    names = [*FOR_IMAGES, *FOR_MAPS] if text == "all" else text.split(",")
    for name in names:
        if name != BOTTLENECK:  # the cuts that have none go without
            named_codec(name)
    return [name for name in dict.fromkeys(names) if name not in ("raw", "fp32")]  # what there is without any


def measure_profile(artifact: str, images: Dataset, codecs: Sequence[str], engine: Engine | None = None) -> Profiled:
    """Profile *artifact* on some of *images*, with a bar; the nodes' logs are kept only while it lasts."""
    from orchestrator.measuring import FEW_REQUESTS, STEPS, profile_here

    some = _some(images)
    with progress_bar() as bar, tempfile.TemporaryDirectory() as logs:
        task = bar.add_task("profiling", total=len(STEPS), note="")
        return asyncio.run(
            profile_here(
                artifact,
                some,
                Path(logs),
                engine=engine,
                codecs=codecs,
                batches=tuple(size for size in BATCHES if size <= len(some)),
                requests=FEW_REQUESTS,
                on_step=lambda step: bar.update(task, completed=STEPS.index(step), note=step),
            )
        )


def _images(manifest: Manifest, data: Path | None) -> Dataset:
    """Shipped images if they are of the artifact's kind, else held-out ones in *data*, else stand-ins; it says which.

    Nothing is downloaded to be timed.
    """
    import numpy as np

    from branchynet.training.assembly import held_out_images
    from branchynet.training.datasets import Dataset, load_sample

    sample = _some(load_sample())
    if manifest.dataset == sample.name:
        return sample
    if data is not None:
        return _some(held_out_images(manifest, data))
    why = f"STAND-INS for {manifest.dataset}, which --data would have; sizes of codecs differ with the images: "
    if sample.images.shape[1:] == manifest.architecture.input_shape:
        return replace(sample, source=why + sample.source)
    pixels = np.random.default_rng(0).integers(256, size=(IMAGES, *manifest.architecture.input_shape), dtype=np.uint8)
    labels = np.zeros(IMAGES, dtype=np.int64)
    return Dataset(manifest.dataset, pixels, labels, manifest.labels, "test", f"{why}random pixels")


def _some(images: Dataset) -> Dataset:
    """Up to `IMAGES` of them, always the same ones, of all classes."""
    import numpy as np

    return images.take(np.random.default_rng(0).permutation(len(images))[:IMAGES])


def _stage_rows(manifest: Manifest, profiled: Profiled) -> list[dict[str, Any]]:
    import numpy as np

    low, median, high = np.percentile(profiled.rounds_ms, (25, 50, 75), axis=0)  # [S, B] each
    return [
        {
            "stage": stage,
            "exit": manifest.cost.exit_of_stage[stage],
            "macs": cost.trunk_macs + cost.head_macs,
            "parameters": cost.trunk_params + cost.head_params,
            "ms": {
                batch: [round(float(value[stage, column]), 5) for value in (low, median, high)]
                for column, batch in enumerate(profiled.profile.edge.batches)
            },
        }
        for stage, cost in enumerate(manifest.cost.stages)
    ]


def _print_stages(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{title}: median ms of a batch, with its quartiles")
    for heading in ("stage", "exit", "M MACs", "parameters", *(f"batch of {batch}" for batch in rows[0]["ms"])):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row["stage"]),
            "" if row["exit"] is None else str(row["exit"]),
            f"{row['macs'] / 1e6:,.3f}",
            f"{row['parameters']:,}",
            *(f"{median:.3f} ({low:.3f} – {high:.3f})" for low, median, high in row["ms"].values()),
        )
    console.print(table)


def _print_cuts(manifest: Manifest, profile: ServingProfile) -> None:
    from branchynet.decisions.plans import plain_codec

    table = Table(title="one sample's message at each cut; times as in the nodes")
    for heading in ("cut", "codec", "bytes", "of raw", "encode us", "decode us"):
        table.add_column(heading, justify="left" if heading == "codec" else "right")
    raw_bytes = profile.message_bytes[0]
    for cut in range(manifest.stages):
        plain = profile.message_bytes[cut]
        table.add_row(str(cut), plain_codec(cut), f"{plain:,}", f"{plain / raw_bytes:.2f}x")
        for cost in (cost for cost in profile.codecs if cost.cut == cut):
            table.add_row(
                "",
                cost.codec,
                f"{cost.message_bytes:,.0f}",
                f"{cost.message_bytes / raw_bytes:.2f}x",
                f"{1e3 * cost.encode_ms:.0f}",
                f"{1e3 * cost.decode_ms:.0f}",
            )
        table.add_section()
    console.print(table)


def _words(profiled: Profiled) -> str:
    profile, mib = profiled.profile, {name: size / 2**20 for name, size in profiled.rss_bytes.items()}
    return (
        f"in real nodes, asked 40 times a second, stages take {profiled.edge_factor:.2f}x as long at the edge and "
        f"{profiled.cloud_factor:.2f}x in the cloud; the profile has stages and codecs so\n"
        f"beside stages, codecs and link: {profile.request_ms:.2f} ms a request, {profile.offload_ms:.2f} ms an "
        f"offload; framing {profile.framing_bytes} bytes up, replies {profile.reply_bytes} bytes down\n"
        f"resident memory after requests of one image each: edge process {mib['edge']:.0f} MiB with stages "
        f"[0, {profile.held}), cloud process {mib['cloud']:.0f} MiB with all"
    )
