"""OTLP/JSON both ways against protobuf's own JSON reader and writer."""

import json

from hypothesis import given, settings

from enricher._native import MalformedRequest, json_from_protobuf, json_to_protobuf
from tests.property.otlp_json import read, texts, written
from tests.property.test_wire import Damage, damaged, damages, requests
from tests.unit.wire_bytes import parsed

LIMIT = 1 << 20


def converted(text: bytes) -> bytes | None:
    try:
        return json_to_protobuf(text, LIMIT)
    except MalformedRequest:
        return None


def assert_read_alike(text: bytes) -> bool:
    expected, found = read(text), converted(text)
    assert (found is None) == (expected is None), f"accepted by protobuf: {expected is not None}: {text!r}"
    if expected is None or found is None:
        return False
    message = parsed(found)
    assert message is not None
    # Messages with a NaN in them are not equal to themselves; their bytes are.
    assert message.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    return True


@settings(max_examples=400, deadline=None)
@given(texts())
def test_any_request_in_json_is_read_as_protobuf_reads_it(text: str) -> None:
    assert assert_read_alike(text.encode())


@settings(max_examples=1000, deadline=None)
@given(texts(wrong=0.2))
def test_json_with_anything_in_place_of_a_value_is_read_as_protobuf_reads_it(text: str) -> None:
    assert_read_alike(text.encode())


@settings(max_examples=1000, deadline=None)
@given(texts(), damages)
def test_damaged_json_is_read_as_protobuf_reads_it(text: str, damage: Damage) -> None:
    assert_read_alike(damaged(text.encode(), damage))


@settings(max_examples=400, deadline=None)
@given(requests)
def test_any_request_is_written_as_protobuf_writes_it(body: bytes) -> None:
    if parsed(body) is None:
        try:
            json_from_protobuf(body)
        except MalformedRequest:
            return
        raise AssertionError(body.hex())
    line = json_from_protobuf(body)
    assert b"\n" not in line
    assert json.loads(line) == written(body)
    assert json_from_protobuf(json_to_protobuf(line, LIMIT)) == line
