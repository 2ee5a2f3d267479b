"""The details of a gRPC status (google.rpc.Status in `grpc-status-details-bin`), as far as OTLP uses them.

google.rpc is imported where it is first used: it costs 2.5 MiB that a pipeline without trouble need not hold.
"""

from functools import cache
from typing import Final

DETAILS_KEY: Final = "grpc-status-details-bin"
_UNAVAILABLE: Final = 14


@cache
def unavailable_with_retry_info(message: str, delay_ns: int) -> bytes:
    """Cached, as senders get it when there is no time to lose: `message` must be one of a few."""
    from google.rpc import error_details_pb2, status_pb2

    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromNanoseconds(delay_ns)
    status = status_pb2.Status(code=_UNAVAILABLE, message=message)
    status.details.add().Pack(info)
    details: bytes = status.SerializeToString()
    return details


def retry_delay_ns(details: bytes) -> int | None:
    """The delay of the RetryInfo in `details`; None where there is none, or `details` cannot be read."""
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    try:
        status = status_pb2.Status.FromString(details)
        for detail in status.details:
            info = error_details_pb2.RetryInfo()
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
                # Not ToNanoseconds, which raises for what no clock can reach.
                delay: int = info.retry_delay.seconds * 1_000_000_000 + info.retry_delay.nanos
                return max(0, delay)
    except DecodeError:
        pass  # the code of the status, which came by another way, still stands
    return None
