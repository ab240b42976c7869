"""`branchynet train --bottleneck`: a finished artifact gets an encoder and a decoder for one of its cuts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchynet.errors import InvalidInput
from cli.options import console, progress_bar, write_json

if TYPE_CHECKING:
    from branchynet.artifact.artifact import Artifact
    from branchynet.data.datasets import Dataset
    from branchynet.training.bottleneck import Epoch
    from branchynet.training.bottleneck_recipes import BottleneckRecipe

__all__ = ["train_bottleneck_of"]


def train_bottleneck_of(
    name: str,
    cut: int | None,
    data: Path | None,
    out: Path | None,
    run: Path | None,
    settings: Sequence[str],
    json_file: Path | None,
    *,
    go_on: bool,
) -> None:
    """Train the bottleneck at *cut* of the artifact *name*, and put it into the artifact or its copy in *out*."""
    from branchynet.artifact.artifact import Artifact
    from branchynet.training.bottleneck import FrozenNetwork, train_bottleneck
    from branchynet.training.bottleneck_recipes import bottleneck_recipe

    artifact = Artifact.open(name)
    manifest = artifact.manifest
    cut = manifest.cut if cut is None else cut
    recipe = _changed(bottleneck_recipe(manifest, cut), settings)
    images = artifact.calibration_split(data)
    start = artifact.trainable_bottleneck(cut) if go_on else None
    network = artifact.runner(engine=artifact.reference_engine)
    frozen = FrozenNetwork(network, artifact.trainable_tail(cut), manifest.rule)
    run = run or Path("runs") / f"{manifest.name}-bottleneck-{cut}"
    with progress_bar() as bar:
        tasks = {}

        def on_step(done: int, total: int, what: str) -> None:
            stage = what.split(maxsplit=1)[0]
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, note="")
            bar.update(tasks[stage], completed=done, note=what)

        trained, tables = train_bottleneck(recipe, frozen, images, run, on_step, _print_epoch, start)
    options = [*["--go-on"] * go_on, *(f"--set {setting}" for setting in settings)]
    command = " ".join([f"branchynet train --bottleneck --artifact {manifest.name} --cut {cut}", *options])
    known = manifest.training.get("bottlenecks", {})
    made: dict[str, Any] = {"command": command, "recipe": dataclasses.asdict(recipe)}
    if go_on:
        made["went_on_from"] = known.get(str(cut))
    record = {**known, str(cut): made}
    described = artifact.with_fields(training={**manifest.training, "bottlenecks": record}).save(out)
    complete = described.add_bottleneck(cut, trained, tables)
    figures = _figures(complete, cut, images[1])
    write_json(json_file, figures)
    console.print(f"written: {complete.folder}", soft_wrap=True)
    console.print(
        f"cut {cut}, on {figures['images']:,} held-out images: {figures['payload_bytes']:.0f} bytes an offload, "
        f"{100 * figures['accuracy']:.2f} % under the rule ({100 * figures['accuracy_change']:+.2f}); "
        f"the encoder takes {figures['encoder_macs']:,} MACs, {100 * figures['of_edge_macs']:.1f} % of the edge's"
    )


def _changed(recipe: BottleneckRecipe, settings: Sequence[str]) -> BottleneckRecipe:
    """*recipe* with each NAME=VALUE of *settings* in it; `InvalidInput` for one that it has not."""
    kinds = {field.name: type(getattr(recipe, field.name)) for field in dataclasses.fields(recipe)}
    changes: dict[str, Any] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in kinds or key == "cut":
            raise InvalidInput(f"--set {setting}: the recipe has {', '.join(sorted(set(kinds) - {'cut'}))}")
        try:
            changes[key] = kinds[key](text)
        except ValueError:
            raise InvalidInput(f"--set {setting}: {text!r} is no {kinds[key].__name__}") from None
    return dataclasses.replace(recipe, **changes)


def _print_epoch(done: Epoch) -> None:
    console.print(f"{done.epoch + 1}/{done.epochs}: divergence {done.divergence:.4f}, {done.bits / 8:.0f} bytes")


def _figures(artifact: Artifact, cut: int, images: Dataset) -> dict[str, Any]:
    """What the bottleneck of *artifact* does to the held-out *images*."""
    from branchynet.evaluation.codec_study import outcomes_through
    from branchynet.evaluation.evaluation import measure_outcomes
    from branchynet.training.bottleneck import macs_of

    manifest, network = artifact.manifest, artifact.runner(engine=artifact.reference_engine)
    table = measure_outcomes(network, manifest.cost, images)
    [coded] = outcomes_through(network, table, images, cut, [artifact.bottleneck(cut)])
    offloads = table.exit_of(manifest.rule) >= network.exits_before(cut)
    before, after = table.apply(manifest.rule).accuracy, coded.table.apply(manifest.rule).accuracy
    encoder, decoder = macs_of(manifest.bottlenecks[cut].shape)
    edge = sum(stage.trunk_macs + stage.head_macs for stage in manifest.cost.stages[:cut])
    return {
        "artifact": manifest.name,
        "cut": cut,
        "images": len(images),
        "payload_bytes": float(coded.payload_bytes[offloads].mean()) if offloads.any() else 0.0,
        "offloaded": float(offloads.mean()),
        "accuracy": after,
        "accuracy_change": after - before,
        "encoder_macs": encoder,
        "decoder_macs": decoder,
        "of_edge_macs": encoder / edge,
    }
