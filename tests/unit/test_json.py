"""What OTLP/JSON and proto3 JSON say, case by case."""

import json

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher._native import MalformedRequest, Request, RequestTooLarge, json_from_protobuf, json_to_protobuf
from tests.unit.wire_bytes import FIXED32, FIXED64, VARINT, delimited, in_span, tag

LIMIT = 1 << 20


def read(text: str) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(json_to_protobuf(text.encode(), LIMIT))


def in_json(span: str) -> str:
    return f'{{"resourceSpans": [{{"scopeSpans": [{{"spans": [{span}]}}]}}]}}'


def span_of(span: str) -> Span:
    return read(in_json(span)).resource_spans[0].scope_spans[0].spans[0]


def value_of(value: str) -> AnyValue:
    return span_of(f'{{"attributes": [{{"key": "k", "value": {value}}}]}}').attributes[0].value


def written(body: bytes) -> str:
    """The one span of a request."""
    line = json_from_protobuf(body).decode()
    start, end = '{"resourceSpans":[{"scopeSpans":[{"spans":[', "]}]}]}"
    assert line.startswith(start)
    assert line.endswith(end)
    return line.removeprefix(start).removesuffix(end)


WHOLE_SPAN = {
    "traceId": "5b8efff798038103d269b633813fc60c",
    "spanId": "eee19b7ec3c1b174",
    "traceState": "a=b",
    "parentSpanId": "eee19b7ec3c1b173",
    "flags": 257,
    "name": "I'm a server span é \U0001f600 \n\t\"\\/\x7f\u2028",
    "kind": 2,
    "startTimeUnixNano": "1544712660000000000",
    "endTimeUnixNano": "18446744073709551615",
    "attributes": [
        {"key": "string", "value": {"stringValue": ""}},
        {"key": "bool", "value": {"boolValue": False}},
        {"key": "int", "value": {"intValue": "-9223372036854775808"}},
        {"key": "zero", "value": {"intValue": "0"}},
        {"key": "double", "value": {"doubleValue": 0.1}},
        {"key": "whole double", "value": {"doubleValue": 0.0}},
        {"key": "nan", "value": {"doubleValue": "NaN"}},
        {"key": "infinite", "value": {"doubleValue": "-Infinity"}},
        {"key": "array", "value": {"arrayValue": {"values": [{"stringValue": "a"}, {}, {"intValue": "1"}]}}},
        {"key": "map", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"boolValue": True}}]}}},
        {"key": "bytes", "value": {"bytesValue": "+/8="}},
        {"key": "nothing", "value": {}},
        {"key": "no value"},
    ],
    "droppedAttributesCount": 4294967295,
    "events": [{"timeUnixNano": "1", "name": "e", "attributes": [{"key": "k"}], "droppedAttributesCount": 1}],
    "droppedEventsCount": 2,
    "links": [{"traceId": "00" * 16, "spanId": "01" * 8, "traceState": "t", "flags": 1}],
    "droppedLinksCount": 3,
    "status": {"message": "m", "code": 2},
}
WHOLE = {
    "resourceSpans": [
        {
            "resource": {
                "attributes": [{"key": "service.name", "value": {"stringValue": "s"}}],
                "droppedAttributesCount": 1,
                "entityRefs": [{"schemaUrl": "u", "type": "t", "idKeys": ["a", ""], "descriptionKeys": ["b"]}],
            },
            "scopeSpans": [
                {"scope": {"name": "n", "version": "1"}, "spans": [WHOLE_SPAN, {}], "schemaUrl": "u"},
                {"spans": [{"status": {}}]},
            ],
            "schemaUrl": "u",
        },
        {"resource": {}},
    ]
}


def test_every_field_comes_back_as_it_was() -> None:
    line = json.dumps(WHOLE, ensure_ascii=False, separators=(",", ":")).encode()
    body = json_to_protobuf(line, LIMIT)
    assert Request.scan(body).span_count == 3
    # The separators of lines that are only Unicode's need no escape.
    assert json_from_protobuf(body) == line
    assert json_to_protobuf(json.dumps(WHOLE, indent=2).encode(), LIMIT) == body


def test_an_empty_request() -> None:
    assert json_to_protobuf(b" {} ", LIMIT) == b""
    assert json_from_protobuf(b"") == b"{}"


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ('{"traceId": "0102030405060708090A0b0C0d0E0f10"}', "trace_id", bytes(range(1, 17))),
        ('{"spanId": "0102"}', "span_id", b"\1\2"),
        ('{"spanId": ""}', "span_id", b""),
        ('{"parent_span_id": "0102030405060708"}', "parent_span_id", bytes(range(1, 9))),
        ('{"kind": 3}', "kind", 3),
        ('{"kind": "3"}', "kind", 3),
        ('{"kind": 77}', "kind", 77),
        ('{"kind": "SPAN_KIND_CONSUMER"}', "kind", 5),
        ('{"start_time_unix_nano": "1544712660000000000"}', "start_time_unix_nano", 1544712660000000000),
        ('{"startTimeUnixNano": 18446744073709551615}', "start_time_unix_nano", 2**64 - 1),
        ('{"startTimeUnixNano": 1.544712660e18}', "start_time_unix_nano", 1544712660000000000),
        ('{"startTimeUnixNano": null}', "start_time_unix_nano", 0),
        ('{"droppedEventsCount": 7.0}', "dropped_events_count", 7),
        ('{"droppedEventsCount": "70e-1"}', "dropped_events_count", 7),
        ('{"name": "\\ud83d\\ude00\\u00e9\\/"}', "name", "\U0001f600é/"),
        ('{"na\\u006de": "x"}', "name", "x"),
        ('{"Name": "x", "name_": "y", "__name": 1, "_": 2, "": 3}', "name", ""),
        ('{"later": {"name": [[], {"x": "\\ud800"}]}, "name": "x"}', "name", "x"),
    ],
)
def test_a_field_may_be_written_in_each_of_these_ways(text: str, field: str, expected: object) -> None:
    assert getattr(span_of(text), field) == expected


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ('{"intValue": -1}', "int_value", -1),
        ('{"int_value": "-1"}', "int_value", -1),
        ('{"doubleValue": 1}', "double_value", 1.0),
        ('{"doubleValue": "0.5"}', "double_value", 0.5),
        ('{"doubleValue": 2.2250738585072011e-308}', "double_value", 2.2250738585072011e-308),
        ('{"doubleValue": "Infinity"}', "double_value", float("inf")),
        ('{"bytesValue": "-_8"}', "bytes_value", b"\xfb\xff"),
        ('{"bytesValue": "+/8="}', "bytes_value", b"\xfb\xff"),
        ('{"bytesValue": ""}', "bytes_value", b""),
        ('{"stringValue": null, "boolValue": false}', "bool_value", False),
        ('{"stringValue": null}', None, None),
        ("null", None, None),
    ],
)
def test_a_value_may_be_written_in_each_of_these_ways(text: str, kind: str | None, expected: object) -> None:
    value = value_of(text)
    assert value.WhichOneof("value") == kind
    if kind is not None:
        assert getattr(value, kind) == expected


def test_a_message_that_is_empty_is_told_from_none() -> None:
    assert span_of('{"status": {}}').HasField("status")
    assert not span_of('{"status": null}').HasField("status")
    assert value_of('{"arrayValue": {}}').WhichOneof("value") == "array_value"


REFUSED = {
    '{"traceId": "abc"}': ".traceId: expected a string of hexadecimal digits at byte 63",
    '{"traceId": "secret"}': ".traceId: expected a string of hexadecimal digits",
    '{"spanId": 7}': ".spanId: expected a string of hexadecimal digits",
    '{"name": 1}': ".name: expected a string",
    '{"name": "x", "name": "secret"}': ".name: given twice",
    '{"startTimeUnixNano": 1, "start_time_unix_nano": 1}': ".startTimeUnixNano: given twice",
    '{"startTimeUnixNano": -1}': ".startTimeUnixNano: expected an unsigned integer in range",
    '{"startTimeUnixNano": 18446744073709551616}': ".startTimeUnixNano: expected an unsigned integer in range",
    '{"startTimeUnixNano": 1.5}': ".startTimeUnixNano: expected an unsigned integer in range",
    '{"startTimeUnixNano": " 1"}': ".startTimeUnixNano: expected an unsigned integer in range",
    '{"startTimeUnixNano": "+1"}': ".startTimeUnixNano: expected an unsigned integer in range",
    '{"startTimeUnixNano": true}': ".startTimeUnixNano: expected an unsigned integer in range",
    '{"kind": "secret"}': ".kind: expected a number or name of this enum",
    '{"kind": 2147483648}': ".kind: expected a number or name of this enum",
    '{"events": {}}': ".events: expected an array",
    '{"events": "secret"}': ".events: expected an array",
    '{"events": [{}, null]}': ".events[1]: expected an object",
    '{"status": []}': ".status: expected an object",
    '{"status": "secret"}': ".status: expected an object",
    '{"attributes": [{"value": {"boolValue": "true"}}]}': ".attributes[0].value.boolValue: expected true or false",
    '{"attributes": [{"value": {"doubleValue": "nan"}}]}': ".attributes[0].value.doubleValue: expected a number",
    '{"attributes": [{"value": {"bytesValue": "secret!"}}]}': ".attributes[0].value.bytesValue: expected a string",
    '{"attributes": [{"value": {"intValue": 1, "boolValue": false}}]}': ".attributes[0].value.boolValue: only one of",
    '{"name": "\\ud800"}': ".name: ",
    '{"name": "a\nb"}': ".name: control character",
    '{"name": NaN}': ".name: expected value",
    '{"name": "secret}': ".name: EOF while parsing a string",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused_is_said_with_its_place_and_without_its_content(text: str) -> None:
    with pytest.raises(MalformedRequest) as raised:
        span_of(text)
    assert str(raised.value).startswith("resourceSpans[0].scopeSpans[0].spans[0]" + REFUSED[text])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "EOF while parsing a value at byte 0"),
        (b"null", "expected an object"),
        (b"[]", "expected an object"),
        (b'"secret"', "expected an object"),
        (b"{} {}", "trailing characters at byte 4"),
        (b'\n\n{"resourceSpans":\n 1}', "resourceSpans: expected an array at byte 22"),
        (b'{"x": "\xff"}', "not UTF-8 at byte 7"),
        (b"\xef\xbb\xbf{}", "expected value"),
    ],
)
def test_what_is_no_object_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(MalformedRequest, match=message):
        json_to_protobuf(body, LIMIT)


@pytest.mark.parametrize("arrays", [0, 1, 47])
def test_values_nest_as_deep_as_in_protobuf(arrays: int) -> None:
    value = '{"arrayValue":{"values":[' * arrays + '{"stringValue":"x"}' + "]}}" * arrays
    body = json_to_protobuf(in_json(f'{{"attributes":[{{"value":{value}}}]}}').encode(), LIMIT)
    assert Request.scan(body).span_count == 1
    assert written(body) == f'{{"attributes":[{{"value":{value}}}]}}'


@pytest.mark.parametrize("arrays", [48, 100_000])
def test_values_that_nest_deeper_are_refused_in_few_words(arrays: int) -> None:
    value = '{"arrayValue":{"values":[' * arrays + "{"
    with pytest.raises(MalformedRequest, match="nested too deep") as raised:
        span_of(f'{{"attributes":[{{"value":{value}')
    assert len(str(raised.value)) < 300


def test_what_is_unknown_may_nest_as_deep_as_it_likes() -> None:
    assert span_of('{"unknown":' + "[" * 200_000 + "]" * 200_000 + ',"name":"x"}').name == "x"


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_383, 16_384, 300_000])
def test_the_limit_is_that_of_the_result(size: int) -> None:
    text = in_json(f'{{"name":"{"x" * size}"}}').encode()
    body = json_to_protobuf(text, LIMIT)
    assert body == ExportTraceServiceRequest.FromString(body).SerializeToString()
    assert json_to_protobuf(text, len(body)) == body
    with pytest.raises(RequestTooLarge, match=f"longer than {len(body) - 1} bytes as protobuf"):
        json_to_protobuf(text, len(body) - 1)


def test_of_a_field_that_came_twice_json_has_what_protobuf_has() -> None:
    first, second = delimited(1, b"one"), delimited(1, b"two")
    number = tag(3, VARINT) + b"\7"
    array = delimited(5, delimited(1, first))

    def value(*fields: bytes) -> str:
        return written(in_span(*(delimited(9, b"".join(delimited(2, field) for field in fields)),)))

    assert written(in_span(delimited(5, b"one"), delimited(6, b"?"), delimited(5, b"two"))) == '{"name":"two"}'
    assert written(in_span(delimited(5, b"one"), delimited(5, b""))) == "{}"
    assert written(in_span(delimited(15, delimited(2, b"m")), delimited(15, b"\x18\2"))) == (
        '{"status":{"message":"m","code":2}}'
    )
    assert value(first, second) == '{"attributes":[{"value":{"stringValue":"two"}}]}'
    assert value(first + number) == '{"attributes":[{"value":{"intValue":"7"}}]}'
    assert value(array + array).count('{"stringValue":"one"}') == 2
    assert value(array, array).count('{"stringValue":"one"}') == 2
    assert value(array + number + array).count('{"stringValue":"one"}') == 1


def test_what_json_cannot_say_is_left_out() -> None:
    unknown = [delimited(40, b"x"), tag(41, VARINT) + b"\1", tag(42, FIXED32) + bytes(4), tag(43, FIXED64) + bytes(8)]
    other_type = [tag(5, VARINT) + b"\1", delimited(6, b"x")]
    assert written(in_span(*unknown, *other_type, delimited(5, b"x"))) == '{"name":"x"}'


def test_numbers_too_wide_for_their_field_are_cut_as_protobuf_cuts_them() -> None:
    wide = b"\x82\x80\x80\x80\x10"  # 2**32 + 2
    expected = '{"kind":2,"droppedAttributesCount":2}'
    assert written(in_span(tag(6, VARINT) + wide, tag(10, VARINT) + wide)) == expected


@pytest.mark.parametrize("body", [b"\xff", in_span(delimited(5, b"\xff")), in_span(tag(5, 6))])
def test_what_protobuf_refuses_is_not_written(body: bytes) -> None:
    with pytest.raises(MalformedRequest, match="not a valid ExportTraceServiceRequest"):
        json_from_protobuf(body)
