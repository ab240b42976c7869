"""The methods of the Open Inference Protocol over any `Model`, and the names they are served under."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator
from importlib.metadata import version
from typing import Any

import grpc

from branchynet.rpc.open_inference import tensors
from branchynet.rpc.open_inference.counters import Counters, Sum, Times
from branchynet.rpc.open_inference.values import (
    Answers,
    Inference,
    Model,
    TensorSpec,
    check_parameters,
    check_served,
    model_settings,
    model_version,
    output_specs,
)
from branchynet.rpc.statuses import report
from branchynet.serving.prediction import ServedModel
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc

__all__ = ["WIRE_NAME", "OpenInferenceService"]

# What clients of the protocol call. The descriptor's own name cannot be this one: see open_inference.proto.
WIRE_NAME = "inference.GRPCInferenceService"
EXTENSIONS = ("model_configuration", "parameters", "statistics")
PLATFORM = "pytorch"
BACKEND = "branchynet"
_CONFIG_TYPES = {
    "UINT8": pb.TYPE_UINT8,
    "INT32": pb.TYPE_INT32,
    "INT64": pb.TYPE_INT64,
    "FP32": pb.TYPE_FP32,
    "BYTES": pb.TYPE_STRING,
}
Context = grpc.aio.ServicerContext[Any, Any]


class OpenInferenceService(pb_grpc.GRPCInferenceServiceServicer):
    """The service `branchynet.oip.v1.GRPCInferenceService`, alias `inference.GRPCInferenceService`."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._counters: defaultdict[str, Counters] = defaultdict(Counters)  # by version

    @property
    def _served(self) -> ServedModel:
        return self._model.served

    def register(self, server: grpc.aio.Server) -> str:
        """Add this service to *server* under both names; the one that reflection can describe."""
        pb_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in service.methods:
            make = grpc.unary_unary_rpc_method_handler
            if method.client_streaming:
                make = grpc.stream_stream_rpc_method_handler
            handlers[method.name] = make(
                getattr(self, method.name),
                request_deserializer=getattr(pb, method.input_type.name).FromString,
                response_serializer=getattr(pb, method.output_type.name).SerializeToString,
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(WIRE_NAME, handlers),))
        return service.full_name

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """See `open_inference.proto`; so for all methods."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """A node has its model before it listens, and refuses every call when it drains."""
        return pb.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Whether that model is the served one."""
        try:
            check_served(request.name, request.version, self._served)
        except LookupError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """Which node this is."""
        return pb.ServerMetadataResponse(name=self._model.server, version=version("branchynet"), extensions=EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """Raises `UnknownModel` for another model or version; so do the methods below."""
        check_served(request.name, request.version, self._served)
        return pb.ModelMetadataResponse(
            name=self._served.model,
            versions=[model_version(self._served)],
            platform=PLATFORM,
            inputs=[_metadata(spec) for spec in self._model.inputs],
            outputs=[_metadata(spec) for spec in output_specs(self._served)],
        )

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """The limits, stages and exit rule of the model."""
        check_served(request.name, request.version, self._served)
        inputs = [
            pb.ModelInput(
                name=spec.name,
                data_type=_CONFIG_TYPES[spec.datatype],
                dims=spec.shape[1:],
                optional=len(self._model.inputs) > 1,
            )
            for spec in self._model.inputs
        ]
        # A standard reader takes no dims for a mistake; one value for each sample is [1] to it.
        outputs = [
            pb.ModelOutput(name=spec.name, data_type=_CONFIG_TYPES[spec.datatype], dims=spec.shape[1:] or (1,))
            for spec in output_specs(self._served)
        ]
        settings = {**model_settings(self._served), **self._model.settings}
        config = pb.ModelConfig(
            name=self._served.model,
            platform=PLATFORM,
            backend=BACKEND,
            max_batch_size=self._served.max_batch,
            input=inputs,
            output=outputs,
            parameters={name: pb.ModelParameter(string_value=value) for name, value in settings.items()},
            model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
        )
        return pb.ModelConfigResponse(config=config)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """The answers to one batch; raises what the node refuses."""
        return await self._infer(request, context)

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterable[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """One batch after the other. A refused one is answered by its error, and the stream goes on."""
        # None is begun before the last is answered: answers keep the order, and who sends too fast is slowed down.
        async for request in request_iterator:
            try:
                response = await self._infer(request, context)
            except Exception as error:
                yield pb.ModelStreamInferResponse(
                    error_message=": ".join(report(error, f"/{WIRE_NAME}/ModelStreamInfer")),
                    infer_response=pb.ModelInferResponse(id=request.id),
                )
            else:
                yield pb.ModelStreamInferResponse(infer_response=response)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        """The counters as they stand."""
        check_served(request.name, request.version, self._served)
        revision = model_version(self._served)
        counters = self._counters[revision]
        statistics = pb.ModelStatistics(
            name=self._served.model,
            version=revision,
            last_inference=counters.last_ms,
            inference_count=counters.images,
            execution_count=counters.success.count,
            inference_stats=pb.InferStatistics(
                success=_duration(counters.success),
                fail=_duration(counters.failure),
                queue=_duration(counters.queue),
                compute_input=_duration(counters.read),
                compute_infer=_duration(counters.infer),
                compute_output=_duration(counters.write),
            ),
            response_stats={
                f"{place}/{number}": pb.InferResponseStatistics(success=_duration(images))
                for (place, number), images in counters.answered_by.items()
            },
        )
        return pb.ModelStatisticsResponse(model_stats=[statistics])

    async def _infer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """The answers to *request*, counted. A request for another model is nobody's failure here."""
        served = self._served  # the answers say which version they are of, and another may be served by then
        check_served(request.model_name, request.model_version, served)
        revision, arrived_ns = model_version(served), time.perf_counter_ns()
        try:
            wanted = tensors.outputs_from_request(request, output_specs(served))
            inference = self._read(request, context)
            read_ns = time.perf_counter_ns()
            answers = await self._model.infer(inference)
            answered_ns = time.perf_counter_ns()
            response = tensors.response_from_answers(answers, wanted)
        except Exception:
            self._counters[revision].add_failure(time.perf_counter_ns() - arrived_ns)
            raise
        response.model_name, response.model_version, response.id = served.model, revision, request.id
        self._count(self._counters[revision], answers, arrived_ns, read_ns, answered_ns)
        return response

    def _read(self, request: pb.ModelInferRequest, context: Context) -> Inference:
        parameters = tensors.parameters_from_message(request.parameters)
        check_parameters(parameters, self._model.parameters, self._model.server)
        spec, tensor = tensors.input_from_request(request, self._model.inputs)
        remaining_s = context.time_remaining()
        return Inference(spec.name, tensor, parameters, math.inf if remaining_s is None else 1e3 * remaining_s)

    @staticmethod
    def _count(counters: Counters, answers: Answers, arrived_ns: int, read_ns: int, answered_ns: int) -> None:
        queue_ns = round(1e6 * answers.queue_ms)
        times = Times(
            read_ns=read_ns - arrived_ns,
            queue_ns=queue_ns,
            infer_ns=answered_ns - read_ns - queue_ns,
            write_ns=time.perf_counter_ns() - answered_ns,
        )
        answered_by = zip(answers.places.tolist(), answers.exits.tolist(), strict=True)
        counters.add(answered_by, times, time.time_ns() // 1_000_000)


def _metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _duration(total: Sum) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=total.count, ns=total.ns)
