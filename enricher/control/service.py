"""The service Control, without its transport: the path of a call and its encoded message in, an encoded answer out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, get_type_hints

from enricher.config.model import Sampling
from enricher.config.values import Rejected
from enricher.errors import EnricherError
from enricher.otlp.transport import StatusCode
from enricher.sampling.sampler import Settings
from enricher.sampling.threshold import threshold_of, written
from enricher.telemetry.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from google.protobuf.message import Message

    from enricher.control.v1 import control_pb2

SERVICE: Final = "enricher.control.v1.Control"
GET_SAMPLING: Final = f"/{SERVICE}/GetSampling"
SET_SAMPLING: Final = f"/{SERVICE}/SetSampling"

# What is imported when the first call comes: most pipelines are never told anything.
MESSAGE_MODULES: Final = ("enricher.control.v1.control_pb2", "google.protobuf.duration_pb2")

Asked = TypeVar("Asked", bound="Message")


@dataclass(frozen=True, slots=True)
class InForce:
    generation: int  # grows with every change
    settings: Settings


class ChangeableSampling(Protocol):
    """Thread-safe."""

    def in_force(self) -> InForce | None:
        """None: nothing is sampled here."""

    def change(self, ratio: float | None, slow_ns: int | None) -> InForce | None:
        """Puts these in force (None: stays as it is), and returns what is then. Raises EnricherError if it cannot."""


class _Refused(Exception):
    """The call is answered with this."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Control:
    """`control(path, message)`: the code of gRPC, what it means, and the encoded answer. Thread-safe."""

    def __init__(self, sampling: ChangeableSampling) -> None:
        self._sampling = sampling
        self._log = get_logger()
        self._methods: Mapping[str, Callable[[bytes], bytes]] = {
            GET_SAMPLING: self._get_sampling,
            SET_SAMPLING: self._set_sampling,
        }

    def __call__(self, path: str, message: bytes) -> tuple[int, str, bytes]:
        method = self._methods.get(path)
        if method is None:
            return StatusCode.UNIMPLEMENTED, f"there is no {path}", b""
        try:
            return StatusCode.OK, "", method(message)
        except _Refused as refused:
            return refused.code, str(refused), b""
        except EnricherError as error:
            return StatusCode.UNAVAILABLE, str(error), b""

    def _get_sampling(self, message: bytes) -> bytes:
        from enricher.control.v1.control_pb2 import GetSamplingRequest, GetSamplingResponse

        _parsed(GetSamplingRequest, message)
        return GetSamplingResponse(sampling=_told(self._sampling.in_force())).SerializeToString()

    def _set_sampling(self, message: bytes) -> bytes:
        from enricher.control.v1.control_pb2 import SetSamplingRequest, SetSamplingResponse

        asked = _parsed(SetSamplingRequest, message)
        ratio = slow_ns = None
        if asked.HasField("ratio"):
            ratio = float(_checked("ratio", asked.ratio))
        if asked.HasField("slow"):
            slow_ns = int(_checked("slow_ns", f"{asked.slow.ToNanoseconds()}ns"))
        now = self._sampling.change(ratio, slow_ns)
        answer = SetSamplingResponse(sampling=_told(now)).SerializeToString()
        if now is not None:
            settings = now.settings
            self._log.info("sampling", ratio=settings.ratio, slow_ns=settings.slow_ns, generation=now.generation)
        return answer


def _parsed(kind: type[Asked], message: bytes) -> Asked:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise _Refused(StatusCode.INVALID_ARGUMENT, f"this is no {kind.DESCRIPTOR.name}") from error


def _checked(field: str, raw: object) -> float:
    """As the configuration checks processors.sampling."""
    (kind,) = get_type_hints(Sampling, include_extras=True)[field].__metadata__
    try:
        checked: float = kind.read(raw)
    except Rejected as rejected:
        raise _Refused(StatusCode.INVALID_ARGUMENT, f"{field.removesuffix('_ns')}: {rejected}") from rejected
    return checked


def _told(now: InForce | None) -> "control_pb2.Sampling":
    from google.protobuf.duration_pb2 import Duration

    from enricher.control.v1.control_pb2 import Sampling as Told

    if now is None:
        raise _Refused(
            StatusCode.FAILED_PRECONDITION,
            "this pipeline does not sample: add sampling to service.pipelines.traces.processors",
        )
    slow = Duration()
    slow.FromNanoseconds(now.settings.slow_ns)
    return Told(
        ratio=now.settings.ratio,
        slow=slow,
        keep_errors=now.settings.keep_errors,
        keep_evidence=now.settings.keep_evidence,
        generation=now.generation,
        threshold=written(threshold_of(now.settings.ratio)),
    )
