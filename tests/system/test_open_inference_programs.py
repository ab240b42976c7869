"""Both programs, as they are started, serve the Open Inference Protocol."""

from __future__ import annotations

import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running_programs import program

from branchynet.data.datasets import Dataset
from branchynet.rpc.channel import open_blocking_channel


@pytest.mark.parametrize("role", ["edge", "cloud"])
def test_a_node_program_answers_tritonclient(sample: Dataset, role: str) -> None:
    images = sample.images[:32]
    options = ["--cloud", ""] if role == "edge" else []
    with program(f"{role}_node", "--port", "0", *options) as node:
        target = f"127.0.0.1:{node.ready()}"
        with open_blocking_channel(target, 2**24) as channel:
            request = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        client = triton.InferenceServerClient(target, channel_args=[("grpc.enable_http_proxy", 0)])
        assert client.get_server_metadata().name == f"branchynet-{role}"
        image = triton.InferInput("image", images.shape, "UINT8").set_data_from_numpy(images)
        result = client.infer("lenet-fashion", [image])
        client.close()
    accuracy = (result.as_numpy("label") == sample.labels[:32]).mean()
    assert accuracy > 0.75
    assert set(result.as_numpy("where")) == ({b"edge", b"fallback"} if role == "edge" else {b"cloud"})
