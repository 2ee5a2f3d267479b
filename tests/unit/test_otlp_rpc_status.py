"""RetryInfo inside the details of a status, both ways."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from enricher.otlp.rpc_status import retry_delay_ns, unavailable_with_retry_info


def details(*messages: object) -> bytes:
    status = status_pb2.Status(code=14, message="busy")
    for message in messages:
        status.details.add().Pack(message)
    return status.SerializeToString()


def test_what_is_written_says_unavailable_and_is_read_back() -> None:
    written = unavailable_with_retry_info("the queue is full", 1_500_000_000)
    status = status_pb2.Status.FromString(written)
    assert (status.code, status.message) == (14, "the queue is full")
    assert retry_delay_ns(written) == 1_500_000_000


def test_the_retry_info_is_found_among_other_details() -> None:
    info = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=5))
    assert retry_delay_ns(details(error_details_pb2.DebugInfo(detail="x"), info)) == 2_000_000_005


def test_details_without_it_have_no_delay() -> None:
    assert retry_delay_ns(details(error_details_pb2.DebugInfo(detail="x"))) is None


@pytest.mark.parametrize("broken", [b"\xff", b"\x1a\x05\x0a\x03abc\x12", b"\x08"])
def test_details_that_cannot_be_read_have_no_delay(broken: bytes) -> None:
    assert retry_delay_ns(broken) is None


def test_retry_info_that_cannot_be_read_has_no_delay() -> None:
    status = status_pb2.Status.FromString(details(error_details_pb2.RetryInfo()))
    status.details[0].value = b"\xff"
    assert retry_delay_ns(status.SerializeToString()) is None


def test_a_negative_delay_is_none_to_wait_for_and_one_beyond_all_clocks_is_kept() -> None:
    backwards = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=-5))
    assert retry_delay_ns(details(backwards)) == 0
    endless = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2**62))
    assert retry_delay_ns(details(endless)) == 2**62 * 1_000_000_000
