"""What protobuf's own JSON reader and writer make of OTLP/JSON, with the ids in hex, and JSON of any shape for them."""

import base64
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

REQUEST = ExportTraceServiceRequest.DESCRIPTOR
IDS = {"trace_id", "span_id", "parent_span_id"}


class Pairs(dict[str, Any]):
    """An object, and which of its keys came more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


Json = Any  # what the json module reads and writes
Check = Callable[[FieldDescriptor, Json], None]
BASE64 = "([A-Za-z0-9{0}]{{4}})*([A-Za-z0-9{0}]{{2}}(==)?|[A-Za-z0-9{0}]{{3}}=?)?"
JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")


class Refused(ValueError):
    """OTLP refuses it, where protobuf's reader would not."""


def written(body: bytes) -> Json:
    """A request as protobuf writes it, as OTLP changes that."""
    message = ExportTraceServiceRequest.FromString(body)
    tree = json_format.MessageToDict(message, use_integers_for_enums=True)
    return with_ids(tree, REQUEST, lambda value: base64.b64decode(value).hex())


def read(text: bytes) -> ExportTraceServiceRequest | None:
    """A request as protobuf reads it, as OTLP changes that; None if it is refused."""
    try:
        tree = json.loads(text.decode(), object_pairs_hook=Pairs, parse_constant=refuse)
        tree = with_ids(tree, REQUEST, base64_of_hex, check_type)
        return json_format.ParseDict(tree, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (ValueError, OverflowError, json_format.ParseError):
        return None


def refuse(what: str) -> NoReturn:
    raise Refused(what)


def base64_of_hex(value: Json) -> Json:
    if not isinstance(value, str) or not re.fullmatch(r"([0-9a-fA-F]{2})*", value):
        refuse("no hex")
    return base64.b64encode(bytes.fromhex(value)).decode()


def with_ids(tree: Json, message: Descriptor, convert: Callable[[Json], Json], check: Check | None = None) -> Json:
    """The tree with its ids converted, without what is unknown."""
    if not isinstance(tree, dict):
        return tree if check is None or tree is None else refuse("no object")
    fields = {name: field for field in message.fields for name in (field.name, field.json_name)}

    if isinstance(tree, Pairs) and tree.repeated & fields.keys():
        refuse("a key twice")

    def converted(field: FieldDescriptor, value: Json) -> Json:
        if field.message_type is not None:
            return with_ids(value, field.message_type, convert, check)
        if value is None:
            return None
        if field.name in IDS:
            return convert(value)
        if check is not None:
            check(field, value)
        return value

    def all_converted(field: FieldDescriptor, value: Json) -> Json:
        if field.is_repeated and isinstance(value, list):
            return [converted(field, item) for item in value]
        if field.is_repeated and value is not None:
            refuse("no array")
        return converted(field, value)

    return {key: all_converted(fields[key], value) for key, value in tree.items() if key in fields}


def check_type(field: FieldDescriptor, value: Json) -> None:
    """Refuses what protobuf's reader takes only because Python's int, float and base64 take it."""
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            fits = isinstance(value, str)
        case FieldDescriptor.TYPE_BYTES:
            fits = isinstance(value, str) and any(re.fullmatch(BASE64.format(extra), value) for extra in ("+/", "_-"))
        case FieldDescriptor.TYPE_BOOL:
            fits = isinstance(value, bool)
        case FieldDescriptor.TYPE_DOUBLE if isinstance(value, str):
            fits = value in {"NaN", "Infinity", "-Infinity"} or bool(JSON_NUMBER.fullmatch(value))
        case FieldDescriptor.TYPE_ENUM if isinstance(value, str):
            fits = value in field.enum_type.values_by_name or bool(JSON_NUMBER.fullmatch(value))
        case FieldDescriptor.TYPE_ENUM if isinstance(value, float):
            fits = value.is_integer()
        case _ if isinstance(value, str):
            fits = bool(JSON_NUMBER.fullmatch(value))
        case _:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not fits:
        refuse(f"{field.name} of another type")


NUMBERS = [
    *(0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63)),
    *(
        -(2**63) - 1,
        2**64 - 1,
        2**64,
        10**40,
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.5,
        1e3,
        1e19,
        1e-3,
        5e-324,
        1.7976931348623157e308,
    ),
]
TEXTS = [
    *("", "0", "-0", "7", "-1", "4294967296", "9223372036854775808", "18446744073709551615", "18446744073709551616"),
    *("1.5", "1e-7", "NaN", "Infinity", "-Infinity", "nan", "inf", "0x1", "+", "-", "e", "true", "null"),
    *(
        "AQID",
        "AQI",
        "AQ==",
        "_-8=",
        "+/8",
        "A",
        "0a0B",
        "abc",
        "g0",
        "text",
        "é",
        "\U0001f600",
        "\x00\x1f\x7f",
        '"\\/',
    ),
    *("SPAN_KIND_SERVER", "STATUS_CODE_ERROR", "SPAN_KIND", "\u2028"),
]
numbers = st.one_of(
    st.sampled_from(NUMBERS),
    st.integers(0, 20),
    st.integers(-(2**63), 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
)
any_values: st.SearchStrategy[Json] = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.sampled_from(TEXTS), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["name", "values", "key", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
hexes = st.builds(
    lambda value, upper: value.hex().upper() if upper else value.hex(),
    st.one_of(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.binary(max_size=40)),
    st.booleans(),
)


def integers(low: int, high: int) -> st.SearchStrategy[Json]:
    whole = st.one_of(st.integers(low, high), st.sampled_from([0, 1, high, low]))
    return st.one_of(whole, whole.map(str), st.integers(0, 1000).map(float))


def base64_of(value: bytes, kind: int) -> str:
    text = (base64.urlsafe_b64encode if kind & 1 else base64.b64encode)(value).decode()
    return text.rstrip("=") if kind & 2 else text


def values(field: FieldDescriptor) -> st.SearchStrategy[Json]:
    """Of the field's type, in any way in which JSON may have it."""
    if field.name in IDS:
        return hexes
    if field.enum_type is not None:
        names = [value.name for value in field.enum_type.values]
        return st.one_of(st.integers(-5, 5), st.integers(-(2**31), 2**31 - 1), st.sampled_from(names))
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return st.one_of(st.text(max_size=8), st.text(st.characters(codec="utf-8"), max_size=80))
        case FieldDescriptor.TYPE_BYTES:
            return st.builds(base64_of, st.binary(max_size=12), st.integers(0, 3))
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_DOUBLE:
            special = st.sampled_from(["NaN", "Infinity", "-Infinity", "1.5", "1e3", "-0"])
            return st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70), special)
        case FieldDescriptor.TYPE_INT32:
            return integers(-(2**31), 2**31 - 1)
        case FieldDescriptor.TYPE_UINT32 | FieldDescriptor.TYPE_FIXED32:
            return integers(0, 2**32 - 1)
        case FieldDescriptor.TYPE_INT64:
            return integers(-(2**63), 2**63 - 1)
        case FieldDescriptor.TYPE_FIXED64:
            return integers(0, 2**64 - 1)
    raise AssertionError(field.full_name)


@st.composite
def messages(draw: st.DrawFn, message: Descriptor, wrong: float, depth: int = 0) -> Json:
    """`wrong`: how many of the values may be anything."""
    result = {}
    fields = [field for field in message.fields if depth < 14 or field.message_type is None]
    chosen = draw(st.lists(st.sampled_from(fields), unique_by=lambda field: field.number)) if fields else []
    if message.oneofs and not wrong:
        chosen = chosen[:1]
    for field in chosen:
        key = draw(st.sampled_from([field.json_name, field.json_name, field.name]))
        if wrong and draw(st.floats(0, 1)) < wrong:
            result[key] = draw(any_values)
            continue
        inner = values(field) if field.message_type is None else messages(field.message_type, wrong, depth + 1)
        value = st.lists(inner, max_size=3) if field.is_repeated else inner
        result[key] = draw(st.one_of(value, value, value, st.none()) if not message.oneofs else value)
    if draw(st.integers(0, 9)) == 0:
        result["unknown"] = draw(any_values)
    return result


@st.composite
def texts(draw: st.DrawFn, wrong: float = 0.0) -> str:
    """A request, written in any way that JSON leaves."""
    tree = draw(messages(REQUEST, wrong))
    indent = draw(st.sampled_from([None, 0, 3]))
    return json.dumps(tree, ensure_ascii=draw(st.booleans()), indent=indent)
