"""One object for a trained network on disk: opened by name, run on an engine, copied with another rule.

    NAME/
    ├── manifest.json               architecture, stages, exit rule, recipe, measured results, checksums
    ├── stage-0.safetensors         weights of the trunk layers and the exit head of stage 0
    ├── stage-1.safetensors         …
    ├── baseline.safetensors        where the plain trunk with the same training differs: a baseline, never served
    ├── bottleneck-1.safetensors    encoder and decoder that were trained for cut 1, if any were
    └── stage-0.onnx, …             graphs of all these without weights; optional where torch can build the layers anew

Layers of an architecture of ours come from its code; those of any other network from its graphs. Nothing else differs.
A half opens only the files of its own stages, so an edge never reads the deep weights; they need not even be on its
disk. The *content hash* covers what makes the function and nothing that may change between two measurements: two halves
with equal hashes belong together.

Opening an artifact and running its graphs needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchynet.artifact import zoo
from branchynet.artifact.bottlenecks import read_bottleneck
from branchynet.artifact.files import digest_of, found_file
from branchynet.artifact.manifest import Manifest, check_manifest, read_manifest, write_manifest
from branchynet.artifact.onnx_stages import onnx_stages, onnx_trunk
from branchynet.artifact.weights import Weights
from branchynet.codecs import BOTTLENECK, BottleneckCodec, Codec, check_cut, is_calibrated, named_codec
from branchynet.data.preprocessing import Preprocessing
from branchynet.errors import InvalidInput, installed, need
from branchynet.exits.drift import Reference
from branchynet.exits.operating_points import OperatingPoint
from branchynet.exits.risk_control import RiskControlled
from branchynet.exits.rules import ExitRule
from branchynet.network.runner import Engine, Runner
from branchynet.terminal import shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from branchynet.codecs.ans import LevelTables
    from branchynet.codecs.bottleneck_net import Bottleneck
    from branchynet.data.artifact_images import ArtifactImages
    from branchynet.data.datasets import Dataset
    from branchynet.models.architectures import Architecture
    from branchynet.network.stages import BranchyNet

__all__ = ["Artifact"]


@dataclass(frozen=True)
class Artifact:
    """The trained network in *folder*, and what its *manifest* records of it.

    What a `with_…` method returns is a value; `save` writes it.
    """

    folder: Path
    manifest: Manifest
    _bottlenecks: dict[int, BottleneckCodec] = field(default_factory=dict, init=False, compare=False, repr=False)

    @classmethod
    def open(cls, name_or_path: str | Path) -> Artifact:
        """The artifact of that name, or in that folder; its weights are read when they are needed.

        Raises `UnknownModel` if there is none, `DamagedData` if its manifest is not what this version writes.
        """
        folder = zoo.find(name_or_path)
        return cls(folder, read_manifest(folder))

    @classmethod
    def create(  # noqa: PLR0913 (what only the caller knows of an artifact)
        cls,
        folder: Path,
        network: BranchyNet,
        plain_trunk: Mapping[str, Tensor] | None = None,
        *,
        name: str,
        architecture: Architecture | str,
        labels: Sequence[str],
        dataset: str,
        weights: Weights = "fp32",
        preprocessing: Preprocessing | None = None,
    ) -> Artifact:
        """Write the whole trained *network* under *folder*; nobody leaves it early yet. Needs torch.

        *plain_trunk*: weights of the plain network with the same training, by their names in *network*; its own unless
        given. *architecture*: what torch can build the layers from, or the name of any other network, whose layers are
        then exported as ONNX graphs, which takes seconds a stage. *weights*: how those of the stages are kept; fp16
        takes half the disk and int8 a quarter, and they round them. The plain trunk is kept in half precision at best:
        it is only measured, and its recorded results come from the kept values. What it shares with the network is not
        kept twice. *preprocessing*: how image files are brought to the input shape; the default unless given. Raises
        `InvalidInput` for a weight that is too large for fp16, and what `export_stage` raises.
        """
        need("torch")
        from branchynet.artifact.torch_files import network_files, spec_of

        described = Manifest(
            name=shown(name),  # that of a folder may hold bytes that are no text, which no message can carry
            architecture=spec_of(architecture, network),
            normalisation=network.normalisation,
            labels=tuple(labels),
            dataset=dataset,
            rule=ExitRule.never(network.exits),
            cut=1,
            files={},
            training={},
            results={},
            weights=weights,
            preprocessing=preprocessing or Preprocessing(),
        )
        check_manifest(described)
        manifest, files = network_files(described, network, plain_trunk or {})
        return cls(folder, manifest)._save(folder, files)

    # --- running it ------------------------------------------------------------------------------------------------

    @property
    def default_engine(self) -> Engine:
        """ONNX Runtime where the graphs are here already, or torch is not installed; else torch."""
        ready = bool(self.manifest.graphs) and installed("onnxruntime")
        return Engine.ONNX if ready or not installed("torch") else Engine.EAGER

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Every engine that can run the network here, that of recorded results first."""
        rebuilt = self.manifest.architecture.variant is not None and installed("torch")
        return (Engine.EAGER, Engine.ONNX) if rebuilt else (Engine.ONNX,)

    @property
    def reference_engine(self) -> Engine:
        """The engine that recorded results were measured on: torch where it can run the network."""
        return self.engines[0]

    def runner(self, first: int = 0, last: int | None = None, engine: Engine | None = None, threads: int = 1) -> Runner:
        """Stages [*first*, *last*) on *engine*; by default all of them, on `default_engine`.

        *threads* are those of ONNX Runtime; torch's are a setting of its own. Bottlenecks at the cuts of these stages
        are opened too, so that a damaged one is noticed here. Where there are no graphs, the first start on onnx
        exports them to the cache folder, which takes seconds a stage. Raises `UnknownModel` if a file is missing,
        `InvalidInput` for stages that there are not and for layers that torch cannot build, `DamagedData` for a
        checksum that does not fit, `SettingsError` if a package is not installed.
        """
        engine = engine or self.default_engine
        first, last = self._range(first, last)
        if engine is Engine.EAGER:
            runner: Runner = self.network(first, last)
        else:
            runner = onnx_stages(self.folder, self.manifest, first, last, threads)
        for cut in self.manifest.bottlenecks:
            if first <= cut <= last:
                self.bottleneck(cut)
        return runner

    def trunk(self, engine: Engine | None = None, threads: int = 1) -> Runner:
        """The plain trunk with the same training, as a network of one stage; otherwise as `runner`."""
        if (engine or self.default_engine) is not Engine.EAGER:
            return onnx_trunk(self.folder, self.manifest, threads)
        need("torch")
        from branchynet.artifact.torch_files import load_plain_trunk

        return load_plain_trunk(self.folder, self.manifest)

    def network(self, first: int = 0, last: int | None = None) -> BranchyNet:
        """Stages [*first*, *last*) in torch, in evaluation mode; raises as `runner`."""
        need("torch")
        from branchynet.artifact.torch_files import load_part

        return load_part(self.folder, self.manifest, *self._range(first, last))

    def trainable_tail(self, cut: int) -> nn.Module:
        """What follows *cut*, in torch: from maps float32 [B, …] to the logits [B, C] of every exit, with gradients.

        Also where the layers are there as graphs only. Needs torch; raises as `runner`.
        """
        need("torch")
        from branchynet.artifact.torch_files import load_tail

        first, _ = self._range(cut, None)
        return load_tail(self.folder, self.manifest, first)

    def export_graphs(self) -> Artifact:
        """Write the ONNX graphs of stages, plain trunk and bottlenecks beside the weights. Needs torch, takes seconds.

        From then on the artifact runs without torch. Raises what `export_stage` raises.
        """
        need("torch")
        from branchynet.artifact.torch_files import graph_files

        bottlenecks = {cut: self.trainable_bottleneck(cut).halves for cut in self.manifest.bottlenecks}
        graphs = graph_files(self.folder, self.manifest, bottlenecks)
        digests = {name: digest_of(graph) for name, graph in graphs.items()}
        return self.with_fields(graphs=digests)._save(self.folder, graphs)

    # --- codecs ----------------------------------------------------------------------------------------------------

    def bottleneck(self, cut: int) -> BottleneckCodec:
        """The codec that was trained for *cut*, read once; `InvalidInput` if none was. Raises as `runner`."""
        if cut not in self._bottlenecks:
            self._bottlenecks[cut] = read_bottleneck(self.folder, self.manifest, cut)
        return self._bottlenecks[cut]

    def trainable_bottleneck(self, cut: int) -> BottleneckCodec:
        """The same with its halves in torch, even if it has graphs. Raises as `bottleneck`."""
        return read_bottleneck(self.folder, self.manifest, cut, in_torch=True)

    def codec(self, name: str, cut: int) -> Codec:
        """The codec called *name* for *cut*, with what the artifact knows of it.

        Raises `InvalidInput` if there is none, or if its ranges were not calibrated at this cut.
        """
        ranges = self.manifest.codec_ranges.get(cut)
        codec: Codec = self.bottleneck(cut) if name == BOTTLENECK else named_codec(name, ranges)
        check_cut(codec, cut)
        if ranges is None and is_calibrated(codec):
            raise InvalidInput(
                f"codec {name} needs the ranges of the feature map at cut {cut}, which {self.manifest.name} does not "
                "hold; `branchynet calibrate --keep-rule` records them"
            )
        return codec

    def codecs_at(self, cut: int, names: Iterable[str]) -> list[Codec]:
        """Those of *names* that carry what there is at *cut*, calibrated ones and bottlenecks only where there are any.

        Raises `InvalidInput` for a name that is no codec.
        """
        ranges = self.manifest.codec_ranges.get(cut)
        codecs = [
            self.bottleneck(cut) if name == BOTTLENECK else named_codec(name, ranges)
            for name in names
            if (cut in self.manifest.bottlenecks or name != BOTTLENECK)
            and (ranges is not None or "calibrated" not in name)
        ]
        return [codec for codec in codecs if (codec.dtype == "uint8") == (cut == 0)]

    def add_bottleneck(self, cut: int, bottleneck: Bottleneck, tables: LevelTables) -> Artifact:
        """Write the trained *bottleneck* of *cut* with its *tables*; its weights are rounded to half precision.

        Where the artifact has graphs, the bottleneck gets its own.
        """
        from branchynet.artifact.torch_files import bottleneck_files

        manifest, files = bottleneck_files(self.manifest, cut, bottleneck, tables)
        return Artifact(self.folder, manifest)._save(self.folder, files)

    # --- what was chosen and measured ------------------------------------------------------------------------------

    @property
    def images(self) -> ArtifactImages:
        """Where the images come from that it is measured and trained on; whoever needs some asks here."""
        from branchynet.data.artifact_images import ArtifactImages

        told = self.manifest
        shape = told.architecture.input_shape
        return ArtifactImages(told.name, told.dataset, told.labels, shape, told.preprocessing, told.recipe)

    def calibration_split(self, data: Path | None = None) -> tuple[Dataset, Dataset]:
        """The images that the artifact was trained on, and those held out then; see `ArtifactImages`."""
        return self.images.calibration_split(data)

    @property
    def drift_reference(self) -> Reference | None:
        """The scores of the calibration split under the artifact's rule, None if they were not recorded.

        Raises `InvalidInput` for what is there but is not what `with_calibration` records.
        """
        raw = self._calibration.get("reference")
        return None if raw is None else Reference.from_json(raw, self.manifest.rule)

    @property
    def operating_points(self) -> tuple[OperatingPoint, ...]:
        """Thresholds for the artifact's rule from cheap to accurate; none if there are none. Raises as above."""
        raw = self._calibration.get("operating_points", [])
        if not isinstance(raw, list):
            raise InvalidInput(f"the operating points of {self.manifest.name} are {raw!r}; they must be a list")
        points = tuple(OperatingPoint.from_json(one) for one in raw)
        for point in points:
            self.manifest.rule.with_thresholds(point.thresholds)
        return points

    @property
    def guarantee(self) -> Mapping[str, Any] | None:
        """What was proved of the artifact's rule, as `RiskControlled.to_json` gives it; None if nothing was."""
        return self._calibration.get("guarantee")

    @property
    def _calibration(self) -> dict[str, Any]:
        calibration = self.manifest.results.get("calibration")
        return calibration if isinstance(calibration, dict) else {}

    # --- another version of it -------------------------------------------------------------------------------------

    def with_rule(self, rule: ExitRule, results: Mapping[str, Any]) -> Artifact:
        """The same network under another exit *rule* and with its *results*; the old ones no longer hold."""
        return self.with_fields(rule=rule, results=results)

    def with_results(self, results: Mapping[str, Any], baselines: Mapping[str, str] | None = None) -> Artifact:
        """The same network and rule with newly measured *results*, and, if given, what was measured beside it."""
        return self.with_fields(results=results, baselines=self.manifest.baselines if baselines is None else baselines)

    def with_fields(self, **fields: Any) -> Artifact:
        """The same with other *fields* of its manifest; `InvalidInput` for what does not fit the network."""
        manifest = replace(self.manifest, **fields)
        check_manifest(manifest)
        return Artifact(self.folder, manifest)

    def with_calibration(
        self,
        reference: Reference | None,
        guarantee: RiskControlled | None = None,
        points: Sequence[OperatingPoint] = (),
    ) -> Artifact:
        """The same with *reference*, *guarantee* and *points* beside the calibration's results.

        *points* are thresholds for the artifact's rule in place of its own. Raises `InvalidInput` if reference or
        guarantee are about another rule than the artifact's.
        """
        for record in (reference, guarantee):
            if record is not None and record.rule != self.manifest.rule:
                raise InvalidInput(f"{self.manifest.name} has {self.manifest.rule}; this record is about {record.rule}")
        calibration = {**self._calibration}
        if reference is not None:
            calibration["reference"] = reference.to_json()
        if guarantee is not None:
            calibration["guarantee"] = guarantee.to_json()
        if points:
            calibration["operating_points"] = [point.to_json() for point in points]
        return self.with_fields(results={**self.manifest.results, "calibration": calibration})

    def save(self, path: Path | None = None) -> Artifact:
        """Write the manifest, by default where the artifact lies; the artifact that then lies there.

        In another folder, files become links to the same data, or copies where there can be no link. What of the
        files is not here, as a half needs, is not there either. If it fails, what lay there is as it was.
        """
        return self._save(path or self.folder, {})

    def _save(self, target: Path, new: Mapping[str, bytes]) -> Artifact:
        """As `save`, with the *new* contents of some of the files."""
        here = {
            name: file
            for name, digest in self.manifest.all_files.items()
            if name not in new and (file := found_file(self.folder / name, digest)) is not None
        }
        write_manifest(target, self.manifest, {**here, **new})
        return Artifact(target, self.manifest)

    def _range(self, first: int, last: int | None) -> tuple[int, int]:
        stages = self.manifest.stages
        last = stages if last is None else last
        if not 0 <= first <= last <= stages:
            raise InvalidInput(
                f"stages [{first}, {last}) do not exist; {self.manifest.name} has the stages [0, {stages})"
            )
        return first, last
