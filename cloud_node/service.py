"""gRPC in, values to `CloudNode`, gRPC out. No decision is made here."""

from __future__ import annotations

import grpc

from branchynet.rpc import messages
from cloud_node.node import CloudNode
from protos import split_inference_pb2 as pb
from protos import split_inference_pb2_grpc as pb_grpc

__all__ = ["CloudService"]


class CloudService(pb_grpc.CloudServicer):
    """The service `branchynet.v1.Cloud`; *answered* counts its answers."""

    def __init__(self, node: CloudNode) -> None:
        self.answered = 0
        self._node = node

    def register(self, server: grpc.aio.Server) -> str:
        """Add this service to *server*; its full name."""
        pb_grpc.add_CloudServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        return pb.DESCRIPTOR.services_by_name["Cloud"].full_name

    async def Resume(
        self, request: pb.ResumeRequest, context: grpc.aio.ServicerContext[pb.ResumeRequest, pb.ResumeReply]
    ) -> pb.ResumeReply:
        """See `split_inference.proto`."""
        resumed = await self._node.resume(
            request.content_hash,
            request.cut,
            messages.payload_from_message(request.encoded)
            if request.WhichOneof("input") == "encoded"
            else messages.array_from_tensor(request.tensor, "tensor"),
            messages.rule_from_message(request.rule) if request.HasField("rule") else None,
            messages.history_from_message(request.history) if request.HasField("history") else None,
        )
        self.answered += 1
        return pb.ResumeReply(
            exits=resumed.exits.tolist(),
            logits=messages.tensor_from_array(resumed.logits),
            queue_ms=resumed.queue_ms,
            compute_ms=resumed.compute_ms,
        )

    async def Describe(
        self,
        request: pb.DescribeRequest,
        context: grpc.aio.ServicerContext[pb.DescribeRequest, pb.DescribeReply],
    ) -> pb.DescribeReply:
        """See `split_inference.proto`."""
        return messages.served_to_reply(self._node.served)
