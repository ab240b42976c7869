from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_UINT8: _ClassVar[DType]
    DTYPE_FLOAT32: _ClassVar[DType]

class Policy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_SPLIT: _ClassVar[Policy]
    POLICY_EDGE_ONLY: _ClassVar[Policy]
    POLICY_CLOUD_ONLY: _ClassVar[Policy]

class Place(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLACE_UNSPECIFIED: _ClassVar[Place]
    PLACE_EDGE: _ClassVar[Place]
    PLACE_CLOUD: _ClassVar[Place]
    PLACE_FALLBACK: _ClassVar[Place]
DTYPE_UNSPECIFIED: DType
DTYPE_UINT8: DType
DTYPE_FLOAT32: DType
POLICY_SPLIT: Policy
POLICY_EDGE_ONLY: Policy
POLICY_CLOUD_ONLY: Policy
PLACE_UNSPECIFIED: Place
PLACE_EDGE: Place
PLACE_CLOUD: Place
PLACE_FALLBACK: Place

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Encoded(_message.Message):
    __slots__ = ("codec", "version", "shape", "data")
    CODEC_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    codec: str
    version: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, codec: _Optional[str] = ..., version: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ExitRule(_message.Message):
    __slots__ = ("criterion", "thresholds", "temperatures", "gates")
    CRITERION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURES_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    criterion: str
    thresholds: _containers.RepeatedScalarFieldContainer[float]
    temperatures: _containers.RepeatedScalarFieldContainer[float]
    gates: _containers.RepeatedCompositeFieldContainer[Gate]
    def __init__(self, criterion: _Optional[str] = ..., thresholds: _Optional[_Iterable[float]] = ..., temperatures: _Optional[_Iterable[float]] = ..., gates: _Optional[_Iterable[_Union[Gate, _Mapping]]] = ...) -> None: ...

class Gate(_message.Message):
    __slots__ = ("weights", "bias")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    weights: _containers.RepeatedScalarFieldContainer[float]
    bias: float
    def __init__(self, weights: _Optional[_Iterable[float]] = ..., bias: _Optional[float] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("labels", "runs")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[int]
    runs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, labels: _Optional[_Iterable[int]] = ..., runs: _Optional[_Iterable[int]] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("model", "images", "rule", "policy", "accuracy_target")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_TARGET_FIELD_NUMBER: _ClassVar[int]
    model: str
    images: Tensor
    rule: ExitRule
    policy: Policy
    accuracy_target: float
    def __init__(self, model: _Optional[str] = ..., images: _Optional[_Union[Tensor, _Mapping]] = ..., rule: _Optional[_Union[ExitRule, _Mapping]] = ..., policy: _Optional[_Union[Policy, str]] = ..., accuracy_target: _Optional[float] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("label", "exit", "place", "edge_ms", "network_ms", "cloud_ms", "uplink_bytes", "fallback_reason")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    EDGE_MS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_MS_FIELD_NUMBER: _ClassVar[int]
    CLOUD_MS_FIELD_NUMBER: _ClassVar[int]
    UPLINK_BYTES_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_REASON_FIELD_NUMBER: _ClassVar[int]
    label: int
    exit: int
    place: Place
    edge_ms: float
    network_ms: float
    cloud_ms: float
    uplink_bytes: int
    fallback_reason: str
    def __init__(self, label: _Optional[int] = ..., exit: _Optional[int] = ..., place: _Optional[_Union[Place, str]] = ..., edge_ms: _Optional[float] = ..., network_ms: _Optional[float] = ..., cloud_ms: _Optional[float] = ..., uplink_bytes: _Optional[int] = ..., fallback_reason: _Optional[str] = ...) -> None: ...

class ClassifyReply(_message.Message):
    __slots__ = ("model", "content_hash", "answers", "probabilities")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    model: str
    content_hash: str
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    probabilities: Tensor
    def __init__(self, model: _Optional[str] = ..., content_hash: _Optional[str] = ..., answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ..., probabilities: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("content_hash", "cut", "tensor", "encoded", "rule", "history")
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    content_hash: str
    cut: int
    tensor: Tensor
    encoded: Encoded
    rule: ExitRule
    history: History
    def __init__(self, content_hash: _Optional[str] = ..., cut: _Optional[int] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., encoded: _Optional[_Union[Encoded, _Mapping]] = ..., rule: _Optional[_Union[ExitRule, _Mapping]] = ..., history: _Optional[_Union[History, _Mapping]] = ...) -> None: ...

class ResumeReply(_message.Message):
    __slots__ = ("exits", "logits", "queue_ms", "compute_ms")
    EXITS_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    exits: _containers.RepeatedScalarFieldContainer[int]
    logits: Tensor
    queue_ms: float
    compute_ms: float
    def __init__(self, exits: _Optional[_Iterable[int]] = ..., logits: _Optional[_Union[Tensor, _Mapping]] = ..., queue_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("model", "content_hash", "first_stage", "last_stage", "total_stages", "input_shape", "labels", "rule", "max_batch", "preprocessing")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    FIRST_STAGE_FIELD_NUMBER: _ClassVar[int]
    LAST_STAGE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STAGES_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    model: str
    content_hash: str
    first_stage: int
    last_stage: int
    total_stages: int
    input_shape: _containers.RepeatedScalarFieldContainer[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    rule: ExitRule
    max_batch: int
    preprocessing: Preprocessing
    def __init__(self, model: _Optional[str] = ..., content_hash: _Optional[str] = ..., first_stage: _Optional[int] = ..., last_stage: _Optional[int] = ..., total_stages: _Optional[int] = ..., input_shape: _Optional[_Iterable[int]] = ..., labels: _Optional[_Iterable[str]] = ..., rule: _Optional[_Union[ExitRule, _Mapping]] = ..., max_batch: _Optional[int] = ..., preprocessing: _Optional[_Union[Preprocessing, _Mapping]] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("resize", "interpolation", "ground", "crop_share")
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    INTERPOLATION_FIELD_NUMBER: _ClassVar[int]
    GROUND_FIELD_NUMBER: _ClassVar[int]
    CROP_SHARE_FIELD_NUMBER: _ClassVar[int]
    resize: str
    interpolation: str
    ground: _containers.RepeatedScalarFieldContainer[int]
    crop_share: float
    def __init__(self, resize: _Optional[str] = ..., interpolation: _Optional[str] = ..., ground: _Optional[_Iterable[int]] = ..., crop_share: _Optional[float] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("cut", "rule", "codec", "edge_only")
    CUT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    EDGE_ONLY_FIELD_NUMBER: _ClassVar[int]
    cut: int
    rule: ExitRule
    codec: str
    edge_only: bool
    def __init__(self, cut: _Optional[int] = ..., rule: _Optional[_Union[ExitRule, _Mapping]] = ..., codec: _Optional[str] = ..., edge_only: _Optional[bool] = ...) -> None: ...

class SetPlanRequest(_message.Message):
    __slots__ = ("plan", "content_hash")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    content_hash: str
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., content_hash: _Optional[str] = ...) -> None: ...

class GetPlanRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PlanReply(_message.Message):
    __slots__ = ("model", "content_hash", "plan")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    model: str
    content_hash: str
    plan: Plan
    def __init__(self, model: _Optional[str] = ..., content_hash: _Optional[str] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ...) -> None: ...

class LoadVersionRequest(_message.Message):
    __slots__ = ("artifact", "force")
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    artifact: str
    force: bool
    def __init__(self, artifact: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class SwitchVersionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RetireVersionRequest(_message.Message):
    __slots__ = ("id", "unused_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    UNUSED_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    unused_s: float
    def __init__(self, id: _Optional[str] = ..., unused_s: _Optional[float] = ...) -> None: ...

class HeldVersion(_message.Message):
    __slots__ = ("id", "model", "content_hash", "under_way")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    UNDER_WAY_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: str
    content_hash: str
    under_way: int
    def __init__(self, id: _Optional[str] = ..., model: _Optional[str] = ..., content_hash: _Optional[str] = ..., under_way: _Optional[int] = ...) -> None: ...

class VersionsReply(_message.Message):
    __slots__ = ("versions", "id", "rss_bytes")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[HeldVersion]
    id: str
    rss_bytes: int
    def __init__(self, versions: _Optional[_Iterable[_Union[HeldVersion, _Mapping]]] = ..., id: _Optional[str] = ..., rss_bytes: _Optional[int] = ...) -> None: ...

class ProfileRequest(_message.Message):
    __slots__ = ("images", "batches", "rounds", "codecs")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    images: Tensor
    batches: _containers.RepeatedScalarFieldContainer[int]
    rounds: int
    codecs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, images: _Optional[_Union[Tensor, _Mapping]] = ..., batches: _Optional[_Iterable[int]] = ..., rounds: _Optional[int] = ..., codecs: _Optional[_Iterable[str]] = ...) -> None: ...

class Quartiles(_message.Message):
    __slots__ = ("low", "median", "high")
    LOW_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    low: float
    median: float
    high: float
    def __init__(self, low: _Optional[float] = ..., median: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class StageTime(_message.Message):
    __slots__ = ("stage", "batch", "ms")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    MS_FIELD_NUMBER: _ClassVar[int]
    stage: int
    batch: int
    ms: Quartiles
    def __init__(self, stage: _Optional[int] = ..., batch: _Optional[int] = ..., ms: _Optional[_Union[Quartiles, _Mapping]] = ...) -> None: ...

class CodecTime(_message.Message):
    __slots__ = ("cut", "codec", "encode_ms", "decode_ms")
    CUT_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    ENCODE_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    cut: int
    codec: str
    encode_ms: Quartiles
    decode_ms: Quartiles
    def __init__(self, cut: _Optional[int] = ..., codec: _Optional[str] = ..., encode_ms: _Optional[_Union[Quartiles, _Mapping]] = ..., decode_ms: _Optional[_Union[Quartiles, _Mapping]] = ...) -> None: ...

class ProfileReply(_message.Message):
    __slots__ = ("model", "content_hash", "first_stage", "last_stage", "stages", "codecs", "engine", "threads", "cores", "rss_bytes", "peak_rss_bytes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    FIRST_STAGE_FIELD_NUMBER: _ClassVar[int]
    LAST_STAGE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    content_hash: str
    first_stage: int
    last_stage: int
    stages: _containers.RepeatedCompositeFieldContainer[StageTime]
    codecs: _containers.RepeatedCompositeFieldContainer[CodecTime]
    engine: str
    threads: int
    cores: int
    rss_bytes: int
    peak_rss_bytes: int
    def __init__(self, model: _Optional[str] = ..., content_hash: _Optional[str] = ..., first_stage: _Optional[int] = ..., last_stage: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[StageTime, _Mapping]]] = ..., codecs: _Optional[_Iterable[_Union[CodecTime, _Mapping]]] = ..., engine: _Optional[str] = ..., threads: _Optional[int] = ..., cores: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., peak_rss_bytes: _Optional[int] = ...) -> None: ...
