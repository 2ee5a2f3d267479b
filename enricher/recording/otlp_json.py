"""OTLP as JSON, which is protobuf's own but for two things: ids are hex digits, and enums are numbers."""

import base64
import json
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_IDS: Final = ("traceId", "spanId", "parentSpanId")


def line(body: bytes) -> str:
    """A request as one line."""
    tree = MessageToDict(ExportTraceServiceRequest.FromString(body), use_integers_for_enums=True)
    for group in tree.get("resourceSpans", ()):
        for scope in group.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                _with_hex_ids(span)
                for link in span.get("links", ()):
                    _with_hex_ids(link)
    return json.dumps(tree)


def _with_hex_ids(tree: dict[str, Any]) -> None:  # what JSON holds is as mixed as it is
    for key in _IDS:
        if key in tree:
            tree[key] = base64.b64decode(tree[key]).hex()
