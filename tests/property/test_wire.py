"""Scan and splice against protobuf's own classes, for requests of any shape and any damage."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from enricher._native import encode_attributes
from tests.unit.wire_bytes import (
    END_GROUP,
    FIXED32,
    FIXED64,
    GROUP,
    VARINT,
    assert_read_alike,
    assert_spliced_alike,
    delimited,
    scanned,
    tag,
    varint,
)

numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
widths = st.sampled_from([0, 0, 0, 0, 2, 5])
text = st.one_of(st.text(max_size=12), st.text("abc.", min_size=50, max_size=140)).map(str.encode)
unknown = st.one_of(
    st.builds(lambda value: tag(40, VARINT) + varint(value), numbers),
    st.builds(lambda content: delimited(41, content), st.binary(max_size=6)),
    st.just(tag(42, FIXED32) + bytes(4)),
    st.just(tag(43, FIXED64) + bytes(8)),
    st.builds(lambda content: tag(44, GROUP) + delimited(1, content) + tag(44, END_GROUP), st.binary(max_size=4)),
)


@st.composite
def message(draw: st.DrawFn, number: int, fields: st.SearchStrategy[bytes], max_fields: int = 6) -> bytes:
    """A length-delimited field whose content is any of these fields, in any order and number."""
    content = b"".join(draw(st.lists(st.one_of(fields, fields, unknown), max_size=max_fields)))
    return delimited(number, content, tag_width=draw(widths), length_width=draw(widths))


def texts(number: int) -> st.SearchStrategy[bytes]:
    return st.builds(lambda content, width: delimited(number, content, length_width=width), text, widths)


def varints(number: int) -> st.SearchStrategy[bytes]:
    return st.builds(lambda value, width: tag(number, VARINT) + varint(value, width), numbers, widths)


def fixed64(number: int) -> st.SearchStrategy[bytes]:
    return st.builds(lambda value: tag(number, FIXED64) + value.to_bytes(8, "little"), st.integers(0, 2**64 - 1))


scalars = st.one_of(
    texts(1), varints(2), varints(3), fixed64(4), st.builds(delimited, st.just(7), st.binary(max_size=9))
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        message(5, st.builds(lambda value: delimited(1, value), inner), 3),
        message(6, st.builds(lambda key, value: delimited(1, key + delimited(2, value)), texts(1), inner), 3),
    ),
    max_leaves=6,
)
plain_attributes = st.builds(lambda key, value: delimited(9, key + delimited(2, value)), texts(1), scalars)
attributes = st.one_of(plain_attributes, plain_attributes, message(9, st.one_of(texts(1), message(2, values, 3)), 3))
ids = st.one_of(
    st.builds(lambda value: delimited(1, value), st.binary(min_size=16, max_size=16)),
    st.builds(delimited, st.sampled_from([2, 4]), st.binary(min_size=8, max_size=8)),
    st.builds(delimited, st.sampled_from([1, 2, 4]), st.binary(max_size=20)),
)
events = message(11, st.one_of(fixed64(1), texts(2), plain_attributes.map(lambda field: b"\x1a" + field[1:])))
links = message(13, st.one_of(ids, texts(3), varints(5)))
status = message(15, st.one_of(texts(2), varints(3)), 3)
flags = st.just(tag(16, FIXED32) + b"\1\0\0\0")
span_fields = st.one_of(
    ids, texts(3), texts(5), varints(6), fixed64(7), fixed64(8), attributes, events, links, status, flags
)


@st.composite
def usual_span(draw: st.DrawFn) -> bytes:
    """As SDKs write it, in the order of field numbers."""
    content = [
        delimited(1, draw(st.binary(min_size=16, max_size=16))),
        delimited(2, draw(st.binary(min_size=8, max_size=8))),
    ]
    content.append(draw(texts(3)) if draw(st.booleans()) else b"")
    content.append(delimited(4, draw(st.binary(min_size=8, max_size=8))) if draw(st.booleans()) else b"")
    content += [draw(texts(5)), tag(6, VARINT) + varint(draw(st.integers(0, 5))), draw(fixed64(7)), draw(fixed64(8))]
    content += draw(st.lists(plain_attributes, max_size=8))
    content += [
        draw(st.sampled_from([b"", b"\x7a\x00", b"\x7a\x02\x18\x01", b"\x7a\x02\x18\x02", b"\x7a\x05\x12\1a\x18\x02"])),
        draw(st.sampled_from([b"", b"\x85\1\1\1\0\0"])),
    ]
    return delimited(2, b"".join(content))


spans = st.one_of(usual_span(), message(2, span_fields, 12))
scopes = message(2, st.one_of(spans, spans, texts(3), message(1, st.one_of(texts(1), texts(2)), 3)))
resource = message(1, st.one_of(varints(2), plain_attributes.map(lambda field: b"\x0a" + field[1:])), 3)
requests = st.lists(message(1, st.one_of(scopes, scopes, resource, texts(3))), max_size=4).map(b"".join)
runs = st.dictionaries(
    st.text(max_size=20),
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=200)),
    min_size=1,
)


@settings(max_examples=400, deadline=None)
@given(requests)
def test_any_request_is_read_as_protobuf_reads_it(body: bytes) -> None:
    assert_read_alike(body)


@settings(max_examples=400, deadline=None)
@given(requests, runs, st.randoms(use_true_random=False))
def test_a_spliced_request_is_the_request_with_attributes_added(
    body: bytes, run: dict[str, bool | int | float | str], choice: random.Random
) -> None:
    request = scanned(body)
    if request is None:
        return  # the other property holds that it had to be refused
    ordinals = [ordinal for ordinal in range(request.span_count) if choice.random() < 0.5]
    assert_spliced_alike(body, ordinals, encode_attributes(run))


Damage = list[tuple[float, int, str]]
damages = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 255), st.sampled_from(["flip", "set", "cut", "insert", "repeat"]))
)


def damaged(body: bytes, damage: Damage) -> bytes:
    result = bytearray(body)
    for place, value, how in damage:
        at = int(place * len(result))
        if how == "insert":
            result.insert(at, value)
        elif how == "repeat":
            result[at:at] = result[at : at + value % 40]
        elif how == "cut":
            del result[at : at + value % 4]
        elif at < len(result):
            result[at] = value if how == "set" else result[at] ^ (1 << value % 8)
    return bytes(result)


@settings(max_examples=400, deadline=None)
@given(requests, damages)
def test_a_damaged_request_is_read_as_protobuf_reads_it(body: bytes, damage: Damage) -> None:
    assert_read_alike(damaged(body, damage))


@settings(max_examples=400, deadline=None)
@given(requests, damages, runs, st.integers(0, 2**64 - 1))
def test_a_damaged_request_that_is_still_one_is_spliced_as_protobuf_adds_attributes(
    body: bytes, damage: Damage, run: dict[str, bool | int | float | str], choice: int
) -> None:
    result = damaged(body, damage[:2])
    request = scanned(result)
    if request is not None:
        ordinals = [ordinal for ordinal in range(request.span_count) if choice >> ordinal % 64 & 1]
        assert_spliced_alike(result, ordinals, encode_attributes(run))


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them(body: bytes) -> None:
    assert_read_alike(body)
