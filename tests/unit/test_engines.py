"""Both engines run the same loop: halves equal the whole bit for bit, and ONNX Runtime decides as torch does."""

import functools
import logging

import numpy as np
import pytest
import torch
from exported_examples import SMALL, small_network
from network_examples import LENET, mixing_rule, pictures, random_network

from branchynet import errors
from branchynet.artifact import torch_files, zoo
from branchynet.artifact.artifact import Artifact
from branchynet.data.datasets import load_sample
from branchynet.errors import DamagedData, InvalidInput, SettingsError, UnknownModel
from branchynet.evaluation.evaluation import measure_outcomes
from branchynet.exits.rules import ExitRule
from branchynet.files import replacing
from branchynet.models.architectures import Architecture
from branchynet.models.layers import LocalResponseNorm
from branchynet.network import onnx_export, onnx_runner
from branchynet.network.graph_weights import with_weights
from branchynet.network.runner import Engine
from branchynet.rpc.messages import array_from_tensor, tensor_from_array

# What is exported once is used by many tests here: the trained B-LeNet, and random weights for the others.
SHIPPED = zoo.find("lenet-fashion")
NETWORKS = {"b-lenet": LENET, "b-alexnet": Architecture("b-alexnet"), SMALL.name: SMALL}
every_network = pytest.mark.parametrize("name", NETWORKS)
every_engine = pytest.mark.parametrize("engine", Engine)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """An empty cache folder of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cache-home")
        patch.setenv("XDG_CACHE_HOME", str(home))
        yield home / "branchynet"


@pytest.fixture(scope="module")
def runners(artifact_folder, exported_folder):
    """Stages [first, last) of a network on an engine, each range opened on its own as a node would."""

    @functools.cache
    def of(name, engine, first=0, last=None):
        if name == SMALL.name:
            if engine is Engine.EAGER:
                return small_network().part(first, len(small_network().exit_of_stage) if last is None else last)
            return Artifact.open(exported_folder).runner(first, last)
        folder = SHIPPED if name == "b-lenet" else artifact_folder(NETWORKS[name])
        return Artifact.open(folder).runner(first, last, engine=engine)

    return of


def network_of(name):
    if name == "b-lenet":
        return Artifact.open(SHIPPED).network()
    return small_network() if name == SMALL.name else random_network(NETWORKS[name])


def joined(edge, cloud, cut, images, rule):
    """Exits and logits of *images* when *edge* runs the stages before *cut* and *cloud*, over the wire, the others."""
    progress = edge.resume(images, 0, cut, rule)
    exits, logits = progress.exits.copy(), progress.logits.copy()
    if len(progress.remaining):
        received = array_from_tensor(tensor_from_array(progress.features), "features").copy()
        resumed = cloud.resume(received, cut, cloud.total_stages, rule)
        exits[progress.remaining], logits[progress.remaining] = resumed.exits, resumed.logits
    return exits, logits


@every_engine
@every_network
def test_halves_equal_the_whole_bit_for_bit_at_every_cut(name, engine, runners):
    network, whole = network_of(name), runners(name, engine)
    mixed = pictures(NETWORKS[name], 12, seed=1)
    rule, taken = mixing_rule(network, mixed), set()
    for batch in range(1, 6):
        for images in (mixed[:batch], mixed[-batch:]):
            expected = whole.resume(images, 0, whole.total_stages, rule)
            taken |= set(expected.exits)
            for cut in range(whole.total_stages + 1):
                halves = runners(name, engine, 0, cut), runners(name, engine, cut)
                exits, logits = joined(*halves, cut, images, rule)
                np.testing.assert_array_equal(exits, expected.exits, err_msg=f"exits at cut {cut}")
                np.testing.assert_array_equal(logits, expected.logits, err_msg=f"logits at cut {cut}")
    assert taken == set(range(network.exits))


@every_network
def test_onnx_says_what_torch_says(name, runners):
    network, onnx = network_of(name), runners(name, Engine.ONNX)
    images = pictures(NETWORKS[name], 12)
    for rule in (mixing_rule(network, images), ExitRule.never(network.exits)):
        eager, graphs = (runner.resume(images, 0, network.total_stages, rule) for runner in (network, onnx))
        np.testing.assert_array_equal(graphs.exits, eager.exits)
        np.testing.assert_allclose(graphs.logits, eager.logits, rtol=1e-5, atol=2e-5)


def test_onnx_decides_on_the_shipped_sample_as_torch_does(runners):
    eager, onnx = (runners("b-lenet", engine) for engine in Engine)
    images, rule = load_sample().images, Artifact.open(SHIPPED).manifest.rule
    expected, graphs = (runner.resume(images, 0, 2, rule) for runner in (eager, onnx))
    np.testing.assert_array_equal(graphs.exits, expected.exits)
    assert np.abs(graphs.logits - expected.logits).max() < 1e-4
    for image, exit_taken in zip(images[:50], expected.exits, strict=False):
        assert onnx.resume(image[None], 0, 2, rule).exits == exit_taken


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_exported_form_of_local_response_normalisation_is_the_same_function(channels, monkeypatch):
    x = torch.randn(2, channels, 4, 3, generator=torch.Generator().manual_seed(0)) * 50
    expected = LocalResponseNorm()(x)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(LocalResponseNorm()(x), expected)


# --- measuring --------------------------------------------------------------------------------------------


@every_network
def test_the_plain_trunk_is_one_stage_on_either_engine(name, runners):
    network, images = network_of(name), pictures(NETWORKS[name], 3)
    expected = network.resume(images, 0, network.total_stages, ExitRule.never(network.exits)).logits
    eager = onnx_export.on_engine(network.plain(), Engine.EAGER)
    np.testing.assert_array_equal(eager.run(0, images)[1], expected)
    assert (eager.total_stages, eager.exits) == (1, 1)


@every_engine
@every_network
def test_without_branches_the_same_stages_run_to_the_end(name, engine, runners):
    runner, images = runners(name, engine), pictures(NETWORKS[name], 3)
    bare = runner.without_branches()
    ran = bare.resume(images, 0, bare.total_stages, ExitRule.never(1))
    assert set(ran.exits) == {0}
    expected = runner.resume(images, 0, runner.total_stages, ExitRule.never(runner.exits))
    np.testing.assert_allclose(ran.logits, expected.logits, rtol=1e-5, atol=1e-5)


def test_onnx_is_measured_like_torch(runners):
    manifest, sample = Artifact.open(SHIPPED).manifest, load_sample()
    eager, onnx = (runners("b-lenet", engine) for engine in Engine)
    trunks = [Artifact.open(SHIPPED).trunk(engine) for engine in Engine]
    expected, logits = (trunk.run(0, sample.images[:100])[1] for trunk in trunks)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)
    expected, table = (measure_outcomes(runner, manifest.cost, sample) for runner in (eager, onnx))
    np.testing.assert_allclose(table.logits, expected.logits, rtol=1e-5, atol=1e-4)


# --- the cache --------------------------------------------------------------------------------------------


@pytest.fixture
def lenet(artifact_folder):
    """A folder whose graphs are in the cache."""
    Artifact.open(artifact_folder(LENET)).runner(engine=Engine.ONNX)
    return artifact_folder(LENET)


@pytest.fixture
def exports(monkeypatch):
    """The stages that are exported."""
    done, original = [], torch_files.export_stage

    def counted(network, index, shape):
        done.append(index)
        return original(network, index, shape)

    monkeypatch.setattr(torch_files, "export_stage", counted)
    return done


def cached(cache, folder):
    return sorted((cache / "graphs" / Artifact.open(folder).manifest.content_hash[:16]).iterdir())


def test_a_second_start_finds_the_graphs(lenet, exports):
    Artifact.open(lenet).runner(engine=Engine.ONNX)
    assert exports == []


def test_a_damaged_graph_in_the_cache_is_made_again(lenet, cache, exports):
    images = pictures(LENET, 2)
    before = Artifact.open(lenet).runner(engine=Engine.ONNX).resume(images, 0, 2, ExitRule.never(2))
    files = cached(cache, lenet)
    files[1].write_bytes(files[1].read_bytes()[:-1])
    again = Artifact.open(lenet).runner(engine=Engine.ONNX).resume(images, 0, 2, ExitRule.never(2))
    assert exports == [1]
    np.testing.assert_array_equal(again.logits, before.logits)
    assert len(cached(cache, lenet)) == 2


def test_a_graph_of_another_exporter_is_not_taken(lenet, cache, exports, monkeypatch):
    monkeypatch.setattr(onnx_export, "_exporter", lambda: "another")
    Artifact.open(lenet).runner(1, 2, engine=Engine.ONNX)
    assert exports == [1]
    for path in cached(cache, lenet):
        if ".another." in path.name:
            path.unlink()


def test_a_cached_graph_does_not_stand_in_for_weights_that_are_missing_or_damaged(lenet, tmp_path):
    (tmp_path / "manifest.json").write_bytes((lenet / "manifest.json").read_bytes())
    with pytest.raises(UnknownModel, match=r"stage-0\.safetensors"):
        Artifact.open(tmp_path).runner(0, 1, engine=Engine.ONNX)
    (tmp_path / "stage-0.safetensors").write_bytes(b"other weights")
    with pytest.raises(DamagedData, match="SHA-256"):
        Artifact.open(tmp_path).runner(0, 1, engine=Engine.ONNX)


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert onnx_export.cached_graph("key", 3, lambda: b"graph") == b"graph"
    assert "stage 3 is not kept" in caplog.text


def test_a_file_that_is_being_written_has_no_name_before_it_is_whole(tmp_path):
    def break_off():
        with replacing(tmp_path / "graph") as file:
            file.write(b"half")
            assert not (tmp_path / "graph").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list(tmp_path.iterdir()) == []


# --- refusals ---------------------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_its_cure(lenet, monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda name: None if "onnx" in name else name)
    with pytest.raises(SettingsError, match=r"onnxruntime is not installed: pip install 'branchynet'"):
        Artifact.open(lenet).runner(engine=Engine.ONNX)
    with pytest.raises(SettingsError, match=r"onnxscript, onnxruntime is not .*: pip install 'branchynet\[torch\]'"):
        onnx_export.export_stage(random_network(), 0, (1, 28, 28))


def test_what_is_no_graph_or_another_stages_graph_is_damage(lenet, cache):
    artifact = Artifact.open(lenet)
    weights = onnx_export.weights_of(artifact.network().stage(1))
    graphs = {0: with_weights(cached(cache, lenet)[1].read_bytes(), weights), 1: b"no graph"}
    shape = {"input_shape": (1, 28, 28), "classes": 10, "exit_of_stage": (0, 1)}
    with pytest.raises(DamagedData, match="stage 0 goes from"):
        onnx_runner.OnnxRunner(graphs.__getitem__, **shape, first=0, last=1)
    with pytest.raises(DamagedData, match="stage 1 cannot be run"):
        onnx_runner.OnnxRunner(graphs.__getitem__, **shape, first=1, last=2)


def test_layers_that_hold_to_one_batch_size_are_refused():
    class OneBatch(torch.nn.Conv2d):
        def forward(self, x):
            return super().forward(x.reshape(2, 3, 8, 8))

    network = small_network(OneBatch(3, 8, 3, padding=1))
    with pytest.raises(InvalidInput, match="stage 0 does not take a batch of 1"):
        onnx_export.export_stage(network, 0, SMALL.input_shape)


def test_a_network_in_training_is_refused():
    network = small_network().part(0, 1)
    network.train()
    try:
        with pytest.raises(InvalidInput, match="eval"):
            onnx_export.export_stage(network, 0, SMALL.input_shape)
    finally:
        network.eval()
