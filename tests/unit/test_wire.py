"""The scanner accepts and refuses what protobuf accepts and refuses: a corpus of odd cases."""

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from enricher._native import MalformedRequest, Request
from tests.unit.wire_bytes import (
    END_GROUP,
    FIXED32,
    FIXED64,
    GROUP,
    LENGTH,
    VARINT,
    assert_read_alike,
    delimited,
    in_span,
    scanned,
    tag,
    varint,
)

NAME, KIND, START, END, ATTRIBUTES = 5, 6, 7, 8, 9
UNKNOWN = 100


def attribute(key: bytes, value: bytes) -> bytes:
    """`value`: the bytes of an AnyValue."""
    return delimited(ATTRIBUTES, delimited(1, key) + delimited(2, value))


def nested_arrays(depth: int) -> bytes:
    value = b""
    for _ in range(depth):
        value = delimited(5, delimited(1, value))
    return in_span(attribute(b"k", value))


def nested_maps(depth: int) -> bytes:
    value = b""
    for _ in range(depth):
        value = delimited(6, delimited(1, delimited(2, value)))
    return in_span(attribute(b"k", value))


def groups(depth: int) -> bytes:
    return tag(UNKNOWN, GROUP) * depth + tag(UNKNOWN, END_GROUP) * depth


ACCEPTED = {
    "nothing": b"",
    "an empty ResourceSpans": delimited(1, b""),
    "an empty span": in_span(),
    "a group nobody knows": groups(1),
    "groups in groups": tag(9, GROUP) + groups(2) + tag(9, END_GROUP),
    "a group in a span": in_span(groups(1)),
    "invalid text in an unknown group": tag(9, GROUP) + delimited(1, b"\xff") + tag(9, END_GROUP),
    "field number 0 in an unknown group": tag(9, GROUP) + tag(0, VARINT) + b"\1" + tag(9, END_GROUP),
    "100 groups": groups(100),
    "97 groups in a span": in_span(groups(97)),
    "47 arrays in each other": nested_arrays(47),
    "31 maps in each other": nested_maps(31),
    "a varint of ten bytes": in_span(tag(KIND, VARINT), b"\xff" * 9 + b"\1"),
    "a varint of ten bytes with surplus bits": in_span(tag(KIND, VARINT), b"\xff" * 9 + b"\x7f"),
    "a kind beyond 32 bits": in_span(tag(KIND, VARINT), varint(2 + (5 << 32))),
    "a tag of five bytes": in_span(tag(KIND, VARINT, 5), b"\2"),
    "a length of five bytes": in_span(delimited(NAME, b"a", length_width=5)),
    "the highest field number": in_span(tag(2**29 - 1, VARINT), b"\1"),
    "text with NUL": in_span(delimited(NAME, b"\0")),
    "the last code point": in_span(delimited(NAME, "\U0010ffff".encode())),
    "text beyond ASCII in an attribute": in_span(attribute("ключ".encode(), delimited(1, "値".encode()))),
    "bytes that are not text": in_span(attribute(b"k", delimited(7, b"\xff\xfe"))),
    "ids that are not text": in_span(delimited(1, b"\xff" * 16)),
    "a name that is a number": in_span(tag(NAME, VARINT), b"\5"),
    "a name that is a group": in_span(tag(NAME, GROUP), tag(NAME, END_GROUP)),
    "attributes that are a number": in_span(tag(ATTRIBUTES, VARINT), b"\1"),
    "a start that is a varint": in_span(tag(START, VARINT), b"\1"),
    "a start of 32 bits": in_span(tag(START, FIXED32), bytes(4)),
    "a kind that is text": in_span(delimited(KIND, b"\xff")),
    "a span that is a number": delimited(1, delimited(2, tag(2, VARINT) + b"\1")),
    "names one after the other": in_span(delimited(NAME, b"a"), delimited(NAME, b"b")),
    "ids one after the other": in_span(delimited(1, b"a" * 16), delimited(1, b"b" * 16)),
    "a value with all of its kinds": in_span(attribute(b"k", b"\x10\1" + b"\x18\2" + delimited(1, b"x"))),
    "an attribute with its key last": in_span(delimited(9, delimited(2, b"\x10\1") + delimited(1, b"k"))),
    "an attribute with two keys": in_span(delimited(9, delimited(1, b"k") * 2 + delimited(2, b"\x10\1"))),
    "an attribute without a value": in_span(delimited(9, delimited(1, b"k"))),
    "an attribute with an empty value": in_span(attribute(b"k", b"")),
    "a bool of many bytes": in_span(attribute(b"k", tag(2, VARINT) + varint(1, 10))),
    "an int and a field nobody knows": in_span(attribute(b"k", b"\x18\x05\x80\x06\x01")),
    "attributes after the last field": in_span(tag(16, FIXED32), bytes(4), attribute(b"k", b"\x10\1")),
}

REFUSED = {
    "field number 0": tag(0, VARINT) + b"\1",
    "field number 0 in a span": in_span(tag(0, LENGTH), b"\0"),
    "wire type 6": in_span(tag(NAME, 6)),
    "wire type 7": in_span(tag(NAME, 7), b"\0"),
    "an end of no group": tag(9, END_GROUP),
    "a group that does not end": tag(9, GROUP),
    "a group that another ends": tag(9, GROUP) + tag(10, END_GROUP),
    "groups that cross": tag(9, GROUP) + tag(10, GROUP) + tag(9, END_GROUP) + tag(10, END_GROUP),
    "a group that ends outside of its span": in_span(tag(9, GROUP)) + tag(9, END_GROUP),
    "101 groups": groups(101),
    "98 groups in a span": in_span(groups(98)),
    "48 arrays in each other": nested_arrays(48),
    "32 maps in each other": nested_maps(32),
    "a varint of eleven bytes": in_span(tag(KIND, VARINT), b"\x80" * 10 + b"\0"),
    "a tag of six bytes": in_span(tag(KIND, VARINT, 6), b"\2"),
    "a tag beyond 32 bits": in_span(b"\xb0\x80\x80\x80\x10", b"\2"),
    "a length of six bytes": in_span(delimited(NAME, b"a", length_width=6)),
    "a length beyond the end": in_span(tag(NAME, LENGTH), b"\1"),
    "a length of 2 GiB": tag(1, LENGTH) + varint(2**31),
    "a length of 32 GiB": tag(1, LENGTH) + varint(2**35 - 1),
    "text that is not UTF-8": in_span(delimited(NAME, b"\xff")),
    "half a surrogate pair": in_span(delimited(NAME, b"\xed\xa0\x80")),
    "an overlong character": in_span(delimited(NAME, b"\xc0\x80")),
    "a code point that is none": in_span(delimited(NAME, b"\xf4\x90\x80\x80")),
    "half a character": in_span(delimited(NAME, "é".encode()[:1])),
    "a key that is not UTF-8": in_span(attribute(b"\xff", b"\x10\1")),
    "a string that is not UTF-8": in_span(attribute(b"k", delimited(1, b"\xff"))),
    "a string that ends beyond its value": in_span(attribute(b"k", tag(1, LENGTH) + b"\2x")),
    "an int that ends beyond its value": in_span(attribute(b"k", tag(3, VARINT) + b"\x80")),
    "an int of eleven bytes": in_span(attribute(b"k", tag(3, VARINT) + b"\x80" * 10 + b"\0")),
    "an int and half a tag": in_span(attribute(b"k", b"\x18\x05\x85")),
    "a bool and half a tag": in_span(attribute(b"k", b"\x10\x01\x80\x80")),
    "a double of seven bytes": in_span(attribute(b"k", tag(4, FIXED64) + bytes(7))),
    "a time of seven bytes": in_span(tag(END, FIXED64), bytes(7)),
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
def test_what_protobuf_accepts_is_accepted_and_read_as_it_reads_it(body: bytes) -> None:
    assert assert_read_alike(body)


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_protobuf_refuses_is_refused(body: bytes) -> None:
    assert not assert_read_alike(body)


def test_the_error_is_a_value_error() -> None:
    with pytest.raises(MalformedRequest, match="not a valid ExportTraceServiceRequest"):
        Request.scan(b"\xff")
    assert issubclass(MalformedRequest, ValueError)


def paths() -> Iterator[tuple[Descriptor, tuple[FieldDescriptor, ...]]]:
    """Every message type that can be in a request, and the fields that lead to it."""
    seen = set()
    waiting: list[tuple[Descriptor, tuple[FieldDescriptor, ...]]] = [(ExportTraceServiceRequest.DESCRIPTOR, ())]
    for message, path in waiting:
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        yield message, path
        waiting += [(field.message_type, (*path, field)) for field in message.fields if field.message_type]


@pytest.mark.parametrize(("message", "path"), [pytest.param(*found, id=found[0].full_name) for found in paths()])
def test_every_field_of_every_message_is_known_for_what_it_is(
    message: Descriptor, path: tuple[FieldDescriptor, ...]
) -> None:
    """Two contents tell text, message and anything else apart: one is no UTF-8, one UTF-8 and no message."""
    for number in range(1, 25):
        for content in (b"\xff", b"a"):
            body = delimited(number, content)
            for field in reversed(path):
                body = delimited(field.number, body)
            assert_read_alike(body)


def test_a_request_cut_short_anywhere_is_read_as_protobuf_reads_it() -> None:
    body = in_span(
        delimited(1, b"t" * 16),
        delimited(2, b"s" * 8),
        delimited(4, b"p" * 8),
        delimited(NAME, b"GET /"),
        tag(KIND, VARINT) + b"\2",
        tag(START, FIXED64) + bytes(8),
        tag(END, FIXED64) + bytes(8),
        attribute(b"string", delimited(1, b"value")),
        attribute(b"int", tag(3, VARINT) + varint(8080)),
        attribute(b"negative", tag(3, VARINT) + varint(2**64 - 5)),
        attribute(b"double", tag(4, FIXED64) + b"\x80\xff" * 4),
        delimited(15, tag(3, VARINT) + b"\1"),
        tag(16, FIXED32) + bytes(4),
    )
    assert scanned(body) is not None
    for size in range(len(body)):
        assert_read_alike(body[:size])
        # The same with lengths that fit, so that the cut is inside the span alone.
        assert_read_alike(in_span(body[6 : 6 + size]))


@pytest.mark.parametrize("size", [1, 60, 90, 100, 127, 128, 200, 16_384])
@pytest.mark.parametrize("bad_at", [None, 0, -1])
def test_text_of_any_length_is_checked_to_its_ends(size: int, bad_at: int | None) -> None:
    text = bytearray(b"a" * size)
    if bad_at is not None:
        text[bad_at] = 0xFF
    for body in (
        in_span(delimited(NAME, bytes(text))),
        in_span(attribute(bytes(text), b"\x10\1")),
        in_span(attribute(b"k", delimited(1, bytes(text)))),
        in_span(attribute(b"k", delimited(1, bytes(text))), attribute(b"n", tag(3, VARINT) + varint(300))),
    ):
        assert assert_read_alike(body) == (bad_at is None)


def test_a_large_request_is_scanned_as_well() -> None:
    body = in_span(delimited(NAME, b"x" * 2_000_000)) * 2
    assert assert_read_alike(body)
