"""Ask an edge without any code generated from its protocol: everything comes from gRPC reflection.

    branchynet cloud & branchynet edge &
    python examples/reflection_only.py [HOST:PORT]

Expected output; with no cloud the fifth image gets `exit 0 (PLACE_FALLBACK)`:

    /branchynet.v1.Edge/Classify
    /branchynet.v1.Edge/Describe
    lenet-fashion: stages 0 to 1 of 2, images of [1, 28, 28], entropy below [0.702]
    Ankle boot   exit 0 (PLACE_EDGE)
    Pullover     exit 0 (PLACE_EDGE)
    Trouser      exit 0 (PLACE_EDGE)
    Trouser      exit 0 (PLACE_EDGE)
    Shirt        exit 1 (PLACE_CLOUD)
    Trouser      exit 0 (PLACE_EDGE)
"""

import sys
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from branchynet.data.datasets import load_sample


def call(channel: grpc.Channel, method: MethodDescriptor, **fields: Any) -> Any:
    """The reply to a request with *fields*; both messages are made from what the server says of them."""
    rpc: Callable[..., Any] = channel.unary_unary(
        path(method),
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    return rpc(GetMessageClass(method.input_type)(**fields), timeout=10)


def path(method: MethodDescriptor) -> str:
    """What the method is called under."""
    return f"/{method.containing_service.full_name}/{method.name}"


def main(target: str) -> None:
    """Print what the edge at *target* serves, and its answers to six images."""
    images = load_sample().images[:6]  # uint8 [6, 1, 28, 28]
    # A proxy for the web (http_proxy) does not know the nodes, and gRPC would ask it.
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        edge = pool.FindServiceByName("branchynet.v1.Edge")
        for method in edge.methods:
            print(path(method))

        served = call(channel, edge.methods_by_name["Describe"])
        print(
            f"{served.model}: stages {served.first_stage} to {served.last_stage} of {served.total_stages},",
            f"images of {list(served.input_shape)},",
            f"{served.rule.criterion} below {[round(threshold, 3) for threshold in served.rule.thresholds]}",
        )

        tensor = {"dtype": "DTYPE_UINT8", "shape": images.shape, "data": images.tobytes()}
        reply = call(channel, edge.methods_by_name["Classify"], images=tensor)
        places = pool.FindEnumTypeByName("branchynet.v1.Place").values_by_number
        for answer in reply.answers:
            print(f"{served.labels[answer.label]:12} exit {answer.exit} ({places[answer.place].name})")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001")
