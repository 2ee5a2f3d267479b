"""Spans as a receiver kept them, and what sets two copies of one span apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

CLAIM = "ebpf."

LENGTH_BYTES = 4

# Field 1, length-delimited.
RESOURCE_SPANS_TAG = 0x0A


@dataclass(frozen=True, slots=True)
class KeptSpan:
    """One span with what it came wrapped in; resource and scope serialised with their schema URLs."""

    span: Span
    resource: bytes
    scope: bytes

    @property
    def id(self) -> str:
        return self.span.trace_id.hex() + self.span.span_id.hex()

    @property
    def claims(self) -> dict[str, bool | int | float | str]:
        """Attributes set by the enricher. A key that is there twice is an error."""
        found: dict[str, bool | int | float | str] = {}
        for attribute in self.span.attributes:
            if not attribute.key.startswith(CLAIM):
                continue
            assert attribute.key not in found, f"{self.id} has {attribute.key} twice"
            kind = attribute.value.WhichOneof("value")
            assert kind is not None, f"{self.id} has {attribute.key} without a value"
            found[attribute.key] = getattr(attribute.value, kind)
        return found

    def untouched(self) -> bytes:
        """The span serialised without claims."""
        copy = Span()
        copy.CopyFrom(self.span)
        del copy.attributes[:]
        copy.attributes.extend(a for a in self.span.attributes if not a.key.startswith(CLAIM))
        return copy.SerializeToString(deterministic=True)


def kept_requests(path: Path, offset: int = 0) -> Iterator[bytes]:
    """The requests in a receiver's file from there on; one that is still being written is left for the next time."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        while len(prefix := file.read(LENGTH_BYTES)) == LENGTH_BYTES:
            length = int.from_bytes(prefix, "little")
            if len(request := file.read(length)) < length:
                return
            yield request


def spans_of(request: bytes) -> list[KeptSpan]:
    return [
        KeptSpan(span, resource, scope)
        for group in ExportTraceServiceRequest.FromString(request).resource_spans
        for resource in [group.resource.SerializeToString(deterministic=True) + group.schema_url.encode()]
        for scoped in group.scope_spans
        for scope in [scoped.scope.SerializeToString(deterministic=True) + scoped.schema_url.encode()]
        for span in scoped.spans
    ]


def differences(reference: list[KeptSpan], subject: list[KeptSpan]) -> list[str]:
    """What is wrong with the subject's copy of the reference, a line each; claims on spans do not count."""
    wanted = {kept.id: kept for kept in reference}
    found: dict[str, list[KeptSpan]] = {}
    for kept in subject:
        found.setdefault(kept.id, []).append(kept)
    problems = [f"{kept.id} {kept.span.name}: lost" for kept in reference if kept.id not in found]
    for span_id, copies in found.items():
        name = copies[0].span.name
        if len(copies) > 1:
            problems.append(f"{span_id} {name}: arrived {len(copies)} times")
        if (original := wanted.get(span_id)) is None:
            problems.append(f"{span_id} {name}: was never sent")
            continue
        for what, same in (
            ("span", copies[0].untouched() == original.untouched()),
            ("resource", copies[0].resource == original.resource),
            ("scope", copies[0].scope == original.scope),
        ):
            if not same:
                problems.append(f"{span_id} {name}: its {what} was changed\n{original}\n{copies[0]}")
    return problems


def resource_spans(request: bytes) -> list[bytes]:
    """The encoded ResourceSpans of a request, byte for byte: requests may be joined, but these stay as they are."""
    found = []
    at = 0
    while at < len(request):
        assert request[at] == RESOURCE_SPANS_TAG, f"unexpected field at byte {at}"
        length = shift = 0
        while True:
            at += 1
            length |= (request[at] & 0x7F) << shift
            shift += 7
            if request[at] < 0x80:
                break
        found.append(request[at + 1 : at + 1 + length])
        at += 1 + length
    return found
