import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetSamplingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSamplingResponse(_message.Message):
    __slots__ = ("sampling",)
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    sampling: Sampling
    def __init__(self, sampling: _Optional[_Union[Sampling, _Mapping]] = ...) -> None: ...

class SetSamplingRequest(_message.Message):
    __slots__ = ("ratio", "slow")
    RATIO_FIELD_NUMBER: _ClassVar[int]
    SLOW_FIELD_NUMBER: _ClassVar[int]
    ratio: float
    slow: _duration_pb2.Duration
    def __init__(self, ratio: _Optional[float] = ..., slow: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SetSamplingResponse(_message.Message):
    __slots__ = ("sampling",)
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    sampling: Sampling
    def __init__(self, sampling: _Optional[_Union[Sampling, _Mapping]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("ratio", "slow", "keep_errors", "keep_evidence", "generation", "threshold")
    RATIO_FIELD_NUMBER: _ClassVar[int]
    SLOW_FIELD_NUMBER: _ClassVar[int]
    KEEP_ERRORS_FIELD_NUMBER: _ClassVar[int]
    KEEP_EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    ratio: float
    slow: _duration_pb2.Duration
    keep_errors: bool
    keep_evidence: bool
    generation: int
    threshold: str
    def __init__(self, ratio: _Optional[float] = ..., slow: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., keep_errors: _Optional[bool] = ..., keep_evidence: _Optional[bool] = ..., generation: _Optional[int] = ..., threshold: _Optional[str] = ...) -> None: ...
