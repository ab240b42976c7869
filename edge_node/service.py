"""gRPC in, values to `EdgeNode`, gRPC out. No decision is made here."""

from __future__ import annotations

import math

import grpc

from branchynet.rpc import messages
from branchynet.serving.validation import check_model
from edge_node.node import EdgeNode
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

__all__ = ["EdgeService"]


class EdgeService(pb_grpc.EdgeServicer):
    """The service `branchynet.v1.Edge`; *answered* counts its answers."""

    def __init__(self, node: EdgeNode) -> None:
        self.answered = 0
        self._node = node

    def register(self, server: grpc.aio.Server) -> str:
        """Add this service to *server*; its full name."""
        pb_grpc.add_EdgeServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        return pb.DESCRIPTOR.services_by_name["Edge"].full_name

    async def Classify(
        self,
        request: pb.ClassifyRequest,
        context: grpc.aio.ServicerContext[pb.ClassifyRequest, pb.ClassifyReply],
    ) -> pb.ClassifyReply:
        """See `split_inference.proto`."""
        served = self._node.served
        check_model(request.model, served.model)
        remaining_s = context.time_remaining()
        predictions = await self._node.classify(
            messages.array_from_tensor(request.images, "images"),
            rule=messages.rule_from_message(request.rule) if request.HasField("rule") else None,
            policy=messages.policy_from_message(request.policy),
            remaining_ms=math.inf if remaining_s is None else 1e3 * remaining_s,
            accuracy_target=request.accuracy_target if request.HasField("accuracy_target") else None,
        )
        self.answered += 1
        return messages.predictions_to_reply(served.model, served.content_hash, predictions)

    async def Describe(
        self,
        request: pb.DescribeRequest,
        context: grpc.aio.ServicerContext[pb.DescribeRequest, pb.DescribeReply],
    ) -> pb.DescribeReply:
        """See `split_inference.proto`."""
        return messages.served_to_reply(self._node.served)
