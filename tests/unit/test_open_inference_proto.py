"""Our text of the Open Inference Protocol has the standard's names, numbers and types, as tritonclient holds them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from protos import open_inference_pb2 as pb

STANDARD = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}


def pairs() -> Iterator[tuple[Descriptor, Descriptor]]:
    """Every message of ours with the standard's."""
    waiting = [(ours, STANDARD[name]) for name, ours in pb.DESCRIPTOR.message_types_by_name.items()]
    while waiting:
        ours, theirs = waiting.pop()
        yield ours, theirs
        waiting += [(inner, theirs.nested_types_by_name[inner.name]) for inner in ours.nested_types]


def kind(field: FieldDescriptor) -> tuple[object, ...]:
    refers_to = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return (
        field.number,
        field.type,
        field.is_repeated,
        refers_to.name if refers_to else None,
        oneof.name if oneof else None,
    )


@pytest.mark.parametrize(("ours", "theirs"), list(pairs()), ids=lambda descriptor: descriptor.name)
def test_every_field_is_the_standards(ours: Descriptor, theirs: Descriptor) -> None:
    for field in ours.fields:
        assert kind(field) == kind(theirs.fields_by_name[field.name]), f"{ours.name}.{field.name}"


def test_every_code_is_the_standards() -> None:
    for name, ours in pb.DESCRIPTOR.enum_types_by_name.items():
        theirs = model_config_pb2.DESCRIPTOR.enum_types_by_name[name].values_by_name
        assert {value.name: value.number for value in ours.values} == {
            value.name: theirs[value.name].number for value in ours.values
        }


def test_every_method_is_the_standards() -> None:
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    methods = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert len(methods) == 9
    for ours in methods:
        standard = theirs[ours.name]
        assert (ours.input_type.name, ours.output_type.name) == (standard.input_type.name, standard.output_type.name)
        assert (ours.client_streaming, ours.server_streaming) == (standard.client_streaming, standard.server_streaming)


def test_both_copies_live_in_one_process() -> None:
    assert pb.DESCRIPTOR.package == "branchynet.oip.v1"
    assert service_pb2.DESCRIPTOR.package == "inference"
    assert pb.DESCRIPTOR.pool is service_pb2.DESCRIPTOR.pool
