"""`python -m edge_node` and `python -m cloud_node`: what they can be told, and how they start and end."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running_nodes import serving_fake_cloud
from running_programs import ROOT, program

from branchynet.artifact.artifact import Artifact
from branchynet.client.client import AsyncClient, Client
from branchynet.data.datasets import Dataset
from branchynet.rpc import messages
from branchynet.rpc.channel import open_channel
from branchynet.serving.prediction import Place, Policy, ServedModel
from branchynet.serving.settings import NodeSettings
from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

NODES = {"edge_node": EdgeSettings, "cloud_node": CloudSettings}


def run_as_program(module: str, *arguments: str) -> int | str | None:
    """`python -m MODULE …` in this process: its exit code. For starts that end before anything is served."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [module, *arguments])
        patch.delitem(sys.modules, f"{module}.__main__", raising=False)  # runpy warns of what is there already
        runpy.run_module(module, run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize("module", NODES)
def test_help_names_every_setting_with_its_default(capsys: pytest.CaptureFixture[str], module: str) -> None:
    kind: type[NodeSettings] = NODES[module]
    assert run_as_program(module, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"python -m {module}" in text
    for name, field in kind.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert str(field.description) in text
        if field.default not in (None, ""):
            assert f"(default: {field.default})" in text
    assert f"BRANCHYNET_{kind.role.upper()}_" in text


def describe(port: int) -> ServedModel:
    async def ask() -> ServedModel:
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            return await client.describe(timeout_ms=20_000)

    return asyncio.run(ask())


def test_flags_win_over_environment_and_environment_over_file_and_the_node_ends_with_its_input(tmp_path: Path) -> None:
    """Three settings that Describe shows: one set everywhere, one by environment and file, one by the file alone."""
    file = tmp_path / "nodes.toml"
    file.write_text('[edge]\nartifact = "of-the-file"\nmax_batch = 11\ncut = 2\n\n[cloud]\nmax_batch = 99\n')
    environment = {
        "BRANCHYNET_EDGE_CONFIG": str(file),
        "BRANCHYNET_EDGE_ARTIFACT": "of-the-environment",
        "BRANCHYNET_EDGE_MAX_BATCH": "12",
        "BRANCHYNET_EDGE_LOG_FORMAT": "json",
        "BRANCHYNET_EDGE_EXIT_WITH_PARENT": "true",
        "BRANCHYNET_CLOUD_MAX_BATCH": "98",
    }
    with program("edge_node", "--artifact", "lenet-fashion", "--port", "0", env=environment) as edge:
        port = edge.ready()
        served = describe(port)
        edge.close_input()
        code, out, err = edge.wait()
    assert (served.model, served.max_batch, served.stages) == ("lenet-fashion", 12, (0, 2))
    assert (code, out) == (0, "")
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == ["ready", "draining", "stopped"]
    assert events[0]["port"] == port


def test_nodes_on_the_engine_onnx_answer_as_torch_does(tmp_path: Path, sample: Dataset) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    artifact = Artifact.open("lenet-fashion")
    manifest, network = artifact.manifest, artifact.network()
    expected = network.resume(sample.images[:40], 0, 2, manifest.rule)
    with program("cloud_node", "--engine", "onnx", "--port", "0", env=cache) as cloud:
        target = f"127.0.0.1:{cloud.ready()}"
        edge_cache = {**cache, "BRANCHYNET_EDGE_ENGINE": "onnx"}
        with (
            program("edge_node", "--port", "0", "--cloud", target, env=edge_cache) as edge,
            Client(f"127.0.0.1:{edge.ready()}") as client,
        ):
            answers = client.classify(sample.images[:40])
    assert [answer.exit for answer in answers] == expected.exits.tolist()
    assert [answer.label for answer in answers] == expected.logits.argmax(1).tolist()
    assert {answer.place for answer in answers} == {Place.EDGE, Place.CLOUD}
    assert not list(tmp_path.rglob("*.onnx")), "the shipped network has graphs of its own"


@pytest.mark.parametrize("module", NODES)
def test_a_port_in_use_ends_the_program_with_2_and_its_number(capsys: pytest.CaptureFixture[str], module: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_as_program(module, "--port", str(port)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"cannot listen on 127.0.0.1:{port}: the port is taken by" in err
    assert f"(process {os.getpid()})" in err
    assert "Traceback" not in err


MISTAKES = {
    "unknown artifact": (["--artifact", "resnet-5000"], ["'resnet-5000'", "lenet-fashion"]),
    "port too high": (["--port", "65536"], ["port", "65536"]),
    "no number": (["--max-batch", "many"], ["max", "many"]),
    "nothing at all": (["--max-batch", "0"], ["max", "0"]),
    "NaN": (["--grace-s", "nan"], ["grace", "nan"]),
    "unknown flag": (["--artefact", "x"], ["--artefact"]),
    "no such file": (["--config", "missing.toml"], ["missing.toml"]),
    "a folder as file": (["--config", "."], ["."]),
    "unknown log level": (["--log-level", "loud"], ["log", "loud"]),
}


@pytest.mark.parametrize("module", NODES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_setting_ends_the_program_with_2_and_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str, mistake: str
) -> None:
    monkeypatch.chdir(ROOT)
    arguments, words = MISTAKES[mistake]
    assert run_as_program(module, *arguments) == 2
    err = capsys.readouterr().err
    for word in words:
        assert word in err
    assert "Traceback" not in err


def test_a_stage_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for module, option in (("edge_node", "--cut"), ("cloud_node", "--first-stage")):
        assert run_as_program(module, option, "7") == 2
        err = capsys.readouterr().err
        assert "7" in err
        assert "[0, 2)" in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[edge]\nport = 'x'\n", ["port", "x"]),
        ("[edge]\nmax_batches = 3\n", ["max_batches"]),
        ("[edge\n", ["not TOML"]),
        ("edge = 3\n", ["edge", "table"]),
        ('[edge]\nartifact = "\udcff"\n', ["not TOML"]),
    ],
)
def test_a_wrong_settings_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: list[str]
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert run_as_program("edge_node", "--config", str(file)) == 2
    err = capsys.readouterr().err
    for word in words:
        assert word in err


async def test_sigterm_lets_the_edge_answer_what_it_has_begun_and_end_with_0(sample: Dataset) -> None:
    """The cloud answers only when the edge has said NOT_SERVING. Standard input stays open all the while."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def behave(request: pb.ResumeRequest, _: object) -> pb.ResumeReply:
        asked.set()
        await release.wait()
        count = request.tensor.shape[0]
        logits = messages.tensor_from_array(np.zeros((count, 10), dtype=np.float32))
        return pb.ResumeReply(exits=[1] * count, logits=logits)

    async with serving_fake_cloud(behave) as cloud:
        options = ("--port", "0", "--cloud", cloud, "--offload-timeout-ms", "60000", "--exit-with-parent")
        with program("edge_node", *options) as edge:
            target = f"127.0.0.1:{edge.ready()}"
            async with AsyncClient(target) as client, open_channel(target, 2**20) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
                request = asyncio.create_task(
                    client.classify(sample.images[:8], policy=Policy.CLOUD_ONLY, deadline_ms=60_000)
                )
                await asyncio.wait_for(asked.wait(), 30)
                edge.send(signal.SIGTERM)
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                assert not request.done()
                release.set()
                answers = await request
            code, out, err = edge.wait()
    assert [answer.place for answer in answers] == [Place.CLOUD] * 8
    assert (code, out) == (0, ""), err
    assert "Traceback" not in err
    assert "Fatal" not in err


def test_sigterm_lets_the_cloud_answer_what_it_has_begun_and_end_with_0() -> None:
    """A cloud that is slow enough for a signal to come in the middle."""
    content_hash = Artifact.open("lenet-fashion").manifest.content_hash
    images = np.random.default_rng(0).integers(0, 256, (24, 1, 28, 28), dtype=np.uint8)
    with program("cloud_node", "--port", "0", "--slowdown", "300") as cloud:
        port = cloud.ready()

        async def stop_in_the_middle() -> int:
            async with open_channel(f"127.0.0.1:{port}", 2**28) as channel:
                tensor = pb.Tensor(dtype=pb.DTYPE_UINT8, shape=images.shape, data=images.tobytes())
                call = pb_grpc.CloudStub(channel).Resume(pb.ResumeRequest(content_hash=content_hash, tensor=tensor))
                request = asyncio.create_task(result(call))
                # A reply to what was sent later on the same connection: the request has arrived.
                for _ in range(3):
                    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                assert not request.done()
                cloud.send(signal.SIGTERM)
                return len((await request).exits)

        assert asyncio.run(stop_in_the_middle()) == 24
        code, _, err = cloud.wait()
    assert code == 0, err


async def result(call: grpc.aio.UnaryUnaryCall[pb.ResumeRequest, pb.ResumeReply]) -> pb.ResumeReply:
    return await call
