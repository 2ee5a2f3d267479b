"""Splicing adds attributes and changes nothing else."""

import math

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher._native import Request, encode_attributes
from tests.unit.wire_bytes import assert_spliced_alike, delimited, in_span, parsed, spans_of, tag, varint

RUN = encode_attributes({"ebpf.system_call_blocked": True, "ebpf.syscall.name": "write"})


def request(*spans_per_scope: int) -> bytes:
    """One ResourceSpans a number, with a ScopeSpans of so many spans, and an empty one."""
    made = ExportTraceServiceRequest()
    for count in spans_per_scope:
        resource = made.resource_spans.add(schema_url="url")
        resource.resource.attributes.add(key="service.name").value.string_value = "shop"
        scope = resource.scope_spans.add(schema_url="url")
        resource.scope_spans.add()
        for n in range(count):
            span = scope.spans.add(name=f"span {n}", trace_id=b"t" * 16, span_id=b"s" * 8)
            span.attributes.add(key="n").value.int_value = n
    return made.SerializeToString()


@pytest.mark.parametrize("ordinals", [[0], [1], [5], [0, 1], [2, 3], [0, 1, 2, 3, 4, 5]])
def test_attributes_are_added_to_the_chosen_spans_only(ordinals: list[int]) -> None:
    assert_spliced_alike(request(2, 0, 3, 1), ordinals, RUN)


def test_without_patches_the_body_is_the_very_same_object() -> None:
    body = request(1)
    scanned = Request.scan(body)
    assert scanned.splice([]) is body
    assert scanned.splice([(0, b"")]) is body


def test_the_run_stands_at_the_end_of_its_span_and_all_else_is_as_it_was() -> None:
    span = delimited(5, b"name") + tag(100, 0) + b"\7"
    body = in_span(span)
    assert Request.scan(body).splice([(0, RUN)]) == in_span(span + RUN)


@pytest.mark.parametrize("size", [100, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152])
def test_lengths_grow_by_as_many_bytes_as_they_need(size: int) -> None:
    for less in range(size - 6, size + 3):
        assert_spliced_alike(in_span(delimited(5, b"x" * (less - 2))), [0], delimited(9, b""))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_odd_widths_of_lengths_and_tags_survive_where_nothing_is_added(width: int) -> None:
    def wide(number: int, content: bytes) -> bytes:
        return delimited(number, content, tag_width=width, length_width=width)

    odd = wide(1, wide(2, wide(2, wide(5, b"name"))))
    body = odd + request(1) + odd
    assert_spliced_alike(body, [1], RUN)
    result = Request.scan(body).splice([(1, RUN)])
    assert result.startswith(odd)
    assert result.endswith(odd)
    assert_spliced_alike(body, [0, 2], RUN)
    assert wide(5, b"name") in Request.scan(body).splice([(0, RUN)])


def test_what_nobody_knows_survives() -> None:
    unknown = delimited(100, b"\xff") + tag(101, 3) + tag(101, 4)
    span = delimited(2, delimited(5, b"name") + unknown)
    body = delimited(1, delimited(2, span + unknown + span) + unknown) + unknown
    assert_spliced_alike(body, [0, 1], RUN)
    assert Request.scan(body).splice([(1, RUN)]).count(unknown) == body.count(unknown)


def test_a_repeated_resource_merges_as_before() -> None:
    resource = delimited(1, delimited(1, delimited(1, b"k") + delimited(2, b"\x10\1")))
    body = delimited(1, resource + delimited(2, delimited(2, b"")) + resource)
    assert len(parsed(body).resource_spans[0].resource.attributes) == 2  # type: ignore[union-attr]
    assert_spliced_alike(body, [0], RUN)


@pytest.mark.parametrize(
    "patches", [[(1, RUN), (0, RUN)], [(0, RUN), (0, RUN)], [(2, RUN)], [(0, RUN), (2, RUN)], [(2**40, RUN)]]
)
def test_ordinals_must_ascend_and_be_those_of_spans(patches: list[tuple[int, bytes]]) -> None:
    with pytest.raises(ValueError, match="ordinals"):
        Request.scan(request(2)).splice(patches)


def test_a_patch_must_be_a_pair() -> None:
    with pytest.raises(TypeError):
        Request.scan(request(1)).splice([(0,)])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        Request.scan(request(1)).splice([(0, "text")])  # type: ignore[list-item]
    with pytest.raises(OverflowError):
        Request.scan(request(1)).splice([(-1, RUN)])


# encode_attributes


def test_attributes_are_encoded_by_their_types_and_in_order() -> None:
    values: dict[str, bool | int | float | str] = {
        "true": True, "false": False, "zero": 0, "one": 1, "minus": -1, "most": 2**63 - 1, "least": -(2**63),
        "half": 0.5, "infinite": math.inf, "text": "é", "empty": "", "long": "x" * 20_000, "k" * 200: "",
    }  # fmt: skip
    span = Span.FromString(encode_attributes(values))
    kinds = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
    assert [attribute.key for attribute in span.attributes] == list(values)
    for attribute, value in zip(span.attributes, values.values(), strict=True):
        kind = attribute.value.WhichOneof("value")
        assert kind == kinds[type(value)]
        assert getattr(attribute.value, kind) == value


def test_no_attributes_are_no_bytes() -> None:
    assert encode_attributes({}) == b""


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (2**63, OverflowError),
        (None, TypeError),
        (b"bytes", TypeError),
        ([1], TypeError),
        ("\ud800", UnicodeEncodeError),
    ],
)
def test_what_is_no_attribute_value_is_refused(value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        encode_attributes({"k": value})  # type: ignore[dict-item]


def test_an_encoded_run_is_what_protobuf_writes() -> None:
    span = Span()
    span.attributes.add(key="ebpf.syscall.blocked.duration").value.double_value = 0.03
    span.attributes.add(key="ebpf.syscall.blocked.count").value.int_value = 300
    run = encode_attributes({"ebpf.syscall.blocked.duration": 0.03, "ebpf.syscall.blocked.count": 300})
    assert run == span.SerializeToString()


def test_joined_requests_are_one_request() -> None:
    body = request(2) + request(0, 1)
    assert Request.scan(body).span_count == len(spans_of(ExportTraceServiceRequest.FromString(body))) == 3
    assert varint(300, 5) == b"\xac\x82\x80\x80\x00"


def test_spans_without_a_patch_get_the_first_fill_that_names_them() -> None:
    one, two, three = (encode_attributes({f"fill{number}": True}) for number in (1, 2, 3))
    scanned = Request.scan(request(3, 2))
    filled = scanned.splice([(1, RUN)], [([4, 1], one), ([4, 2], two), (None, three)])
    assert filled == scanned.splice([(0, three), (1, RUN), (2, two), (3, three), (4, one)])
    assert scanned.splice([], [([2], b"")]) is scanned.body
    with pytest.raises(IndexError):
        scanned.splice([], [([5], one)])
