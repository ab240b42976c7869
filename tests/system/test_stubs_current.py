"""The committed stubs are what protoc makes of the proto, and no field changes its number."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor

from protos import generate
from protos import split_inference_pb2 as pb

# Numbers are for ever: a field may be added here, never moved, retyped or reused.
FIELDS = {
    "Tensor": {"dtype": 1, "shape": 2, "data": 3},
    "ExitRule": {"criterion": 1, "thresholds": 2},
    "ClassifyRequest": {"model": 1, "images": 2, "rule": 3, "policy": 4},
    "Answer": {
        "label": 1,
        "exit": 2,
        "place": 3,
        "edge_ms": 4,
        "network_ms": 5,
        "cloud_ms": 6,
        "uplink_bytes": 7,
        "fallback_reason": 8,
    },
    "ClassifyReply": {"model": 1, "content_hash": 2, "answers": 3, "probabilities": 4},
    "ResumeRequest": {"content_hash": 1, "cut": 2, "tensor": 3, "rule": 4},
    "ResumeReply": {"exits": 1, "logits": 2, "queue_ms": 3, "compute_ms": 4},
    "DescribeRequest": {},
    "DescribeReply": {
        "model": 1,
        "content_hash": 2,
        "first_stage": 3,
        "last_stage": 4,
        "total_stages": 5,
        "input_shape": 6,
        "labels": 7,
        "rule": 8,
        "max_batch": 9,
        "preprocessing": 10,
    },
    "Preprocessing": {"resize": 1, "interpolation": 2, "ground": 3},
    "ProfileRequest": {"images": 1, "batches": 2, "rounds": 3, "codecs": 4},
    "Quartiles": {"low": 1, "median": 2, "high": 3},
    "StageTime": {"stage": 1, "batch": 2, "ms": 3},
    "CodecTime": {"cut": 1, "codec": 2, "encode_ms": 3, "decode_ms": 4},
    "ProfileReply": {
        "model": 1,
        "content_hash": 2,
        "first_stage": 3,
        "last_stage": 4,
        "stages": 5,
        "codecs": 6,
        "engine": 7,
        "threads": 8,
        "cores": 9,
        "rss_bytes": 10,
        "peak_rss_bytes": 11,
    },
}
ENUMS = {
    "DType": {"DTYPE_UNSPECIFIED": 0, "DTYPE_UINT8": 1, "DTYPE_FLOAT32": 2},
    "Policy": {"POLICY_SPLIT": 0, "POLICY_EDGE_ONLY": 1, "POLICY_CLOUD_ONLY": 2},
    "Place": {"PLACE_UNSPECIFIED": 0, "PLACE_EDGE": 1, "PLACE_CLOUD": 2, "PLACE_FALLBACK": 3},
}
METHODS = {"Edge": {"Classify", "Describe"}, "Cloud": {"Resume", "Describe"}, "Control": {"Profile"}}


def test_the_committed_stubs_are_those_that_protoc_makes(tmp_path: Path) -> None:
    made = generate.generate(tmp_path)
    committed = generate.HERE
    assert sorted(path.name for path in made) == sorted(path.name for path in committed.glob("*_pb2*"))
    for path in made:
        assert path.read_bytes() == (committed / path.name).read_bytes(), f"{path.name}: run `make protos`"


def test_no_field_and_no_code_changed_its_number() -> None:
    messages: dict[str, Descriptor] = pb.DESCRIPTOR.message_types_by_name
    for name, fields in FIELDS.items():
        numbers = {field.name: field.number for field in messages[name].fields}
        assert fields.items() <= numbers.items(), name
        # A number that is not in the list above must be new, and not one that was given away before.
        assert len(set(numbers.values())) == len(numbers)
    enums: dict[str, EnumDescriptor] = pb.DESCRIPTOR.enum_types_by_name
    for name, codes in ENUMS.items():
        assert codes.items() <= {value.name: value.number for value in enums[name].values}.items(), name


def test_no_service_or_method_was_lost() -> None:
    assert pb.DESCRIPTOR.package == "branchynet.v1"
    for service, methods in METHODS.items():
        assert methods <= {method.name for method in pb.DESCRIPTOR.services_by_name[service].methods}


def test_pixels_and_floats_travel_as_bytes() -> None:
    """A repeated float field would cost many times the time to fill."""
    data = pb.DESCRIPTOR.message_types_by_name["Tensor"].fields_by_name["data"]
    assert data.type == data.TYPE_BYTES
