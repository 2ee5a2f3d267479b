"""exporters.debug: what passes, on standard output: a line a request, a line a span, or everything."""

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Final, TextIO

from enricher._native import MalformedRequest
from enricher.config.model import DebugExporter
from enricher.otlp.delivery import DeliverySettings
from enricher.otlp.sending.assembly import Line
from enricher.otlp.span_json import Tree, service_name, several, single, tree_of
from enricher.otlp.terminal_text import duration
from enricher.otlp.transport import Exporter, Failure, Sendable, StatusCode, Taken

_TIMEOUT_NS: Final = 5_000_000_000  # there is nothing that could answer late
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES: Final = ("unset", "ok", "error")


def build(settings: DebugExporter, line: Line) -> Exporter:
    return line.delivery(DeliverySettings(timeout_ns=_TIMEOUT_NS), DebugSender(settings))


class DebugSender:
    """A `Sender` to `stream`, which is standard output if none is given."""

    def __init__(self, settings: DebugExporter, stream: TextIO | None = None) -> None:
        # A process that was started with standard output closed has none.
        self._gone = "there is no output" if stream is None and sys.stdout is None else ""
        self._stream = stream or sys.stdout or io.StringIO()
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="replace")  # names of spans are in any script, a terminal may know one
        self._lines = LINES[settings.verbosity]
        self._lock = Lock()

    @property
    def destination(self) -> str:
        return "standard output"

    def send(self, bodies: Sequence[Sendable], timeout_ns: int) -> Taken | Failure:  # noqa: ARG002 - see _TIMEOUT_NS
        try:
            requests = [tree_of(part.body) for part in bodies]
        except MalformedRequest as error:
            return Failure(StatusCode.INVALID_ARGUMENT, str(error))
        text = "".join(f"{line}\n" for request in requests for line in self._lines(request))
        with self._lock:
            if not self._gone:
                self._write(text)
            return Failure(StatusCode.FAILED_PRECONDITION, self._gone) if self._gone else Taken()

    def close(self) -> None:
        """What waits for a terminal that was stopped cannot be cut off."""

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._gone = f"the output is gone: {error}"


def basic(request: Tree) -> Iterator[str]:
    """ "traces: 2 spans, 1 scope, 1 resource" """
    resources = several(request, "resourceSpans")
    scopes = [scope for resource in resources for scope in several(resource, "scopeSpans")]
    spans = sum(len(several(scope, "spans")) for scope in scopes)
    yield f"traces: {_count(spans, 'span')}, {_count(len(scopes), 'scope')}, {_count(len(resources), 'resource')}"


def normal(request: Tree) -> Iterator[str]:
    """A line for each span, with its attributes."""
    for resource in several(request, "resourceSpans"):
        service = shown(json.dumps(service_name(resource), ensure_ascii=False))
        for scope in several(resource, "scopeSpans"):
            for span in several(scope, "spans"):
                yield " ".join([*_headline(span), f"service={service}", *_pairs(several(span, "attributes"))])


def detailed(request: Tree) -> Iterator[str]:
    """All that there is."""
    for resource in several(request, "resourceSpans"):
        yield f"resource {shown(resource.get('schemaUrl', ''))}".rstrip()
        yield from _attributes(single(resource, "resource"), 1)
        for scope in several(resource, "scopeSpans"):
            about = single(scope, "scope")
            yield f"  scope {shown(about.get('name', ''))} {shown(about.get('version', ''))}".rstrip()
            yield from _attributes(about, 2)
            for span in several(scope, "spans"):
                yield from _span(span)


LINES: Final[Mapping[str, Callable[[Tree], Iterator[str]]]] = {"basic": basic, "normal": normal, "detailed": detailed}


def shown(text: object) -> str:
    """Text of others, with nothing in it that could steer the terminal or begin a line."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def _span(span: Tree) -> Iterator[str]:
    yield "    " + " ".join(_headline(span))
    for key, value in span.items():
        if key not in {"name", "traceId", "spanId", "kind", "attributes", "events", "links", "status"}:
            yield f"      {shown(key)}: {shown(value)}"
    yield from _attributes(span, 3)
    for word, key in (("event", "events"), ("link", "links")):
        for item in several(span, key):
            plain = [f"{shown(name)}={shown(value)}" for name, value in item.items() if name != "attributes"]
            yield " ".join([f"      {word}", *plain])
            yield from _attributes(item, 4)


def _headline(span: Tree) -> Iterator[str]:
    yield shown(span.get("name", ""))
    yield f"trace_id={shown(span.get('traceId', ''))}"
    yield f"span_id={shown(span.get('spanId', ''))}"
    yield f"kind={_word(_KINDS, span.get('kind', 0))}"
    took_ns = int(span.get("endTimeUnixNano", 0)) - int(span.get("startTimeUnixNano", 0))
    yield f"took={duration(took_ns / 1e9)}"
    if status := single(span, "status"):
        yield f"status={_word(_STATUSES, status.get('code', 0))}"
        if message := status.get("message"):
            yield f"message={shown(json.dumps(message, ensure_ascii=False))}"


def _attributes(holder: Tree, depth: int) -> Iterator[str]:
    for pair in _pairs(several(holder, "attributes")):
        yield f"{'  ' * depth}{pair}"


def _pairs(attributes: Sequence[Tree]) -> Iterator[str]:
    for attribute in attributes:
        yield f"{shown(attribute.get('key', ''))}={shown(_value(attribute.get('value', {})))}"


def _value(value: Tree) -> str:
    """As people write it; a list or a map as JSON."""
    kind, content = next(iter(value.items()), ("", None))
    if kind in {"arrayValue", "kvlistValue"}:
        return json.dumps(content, ensure_ascii=False)
    return (
        json.dumps(content, ensure_ascii=False) if isinstance(content, str) and kind == "stringValue" else str(content)
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _word(words: Sequence[str], number: int) -> str:
    return words[number] if 0 <= number < len(words) else str(number)
