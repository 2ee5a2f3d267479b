"""Spans for people to look at: requests read through their JSON, which needs no classes of protobuf.

Those cost 6 MiB resident; what passes the pipeline without being shown is never read this way.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from enricher._native import json_from_protobuf

Tree = Mapping[str, Any]  # of JSON, which is as mixed as it is
Value = bool | int | float | str


def tree_of(body: bytes) -> Tree:
    """An ExportTraceServiceRequest as OTLP JSON: ids are hex digits, times strings of digits. Raises
    MalformedRequest."""
    tree: Tree = json.loads(json_from_protobuf(body))
    return tree


def several(tree: Tree, key: str) -> Sequence[Tree]:
    """The messages of a repeated field."""
    found: Sequence[Tree] = tree.get(key, ())
    return found


def single(tree: Tree, key: str) -> Tree:
    """The message of a field, an empty one where it is not set."""
    found: Tree = tree.get(key, {})
    return found


def scalar(attribute: Tree) -> Value | None:
    """The value of an attribute; None for one that is a list, a map, bytes, or nothing."""
    match single(attribute, "value"):
        case {"stringValue": str(text)}:
            return text
        case {"boolValue": bool(flag)}:
            return flag
        case {"intValue": number}:
            return int(number)
        case {"doubleValue": number}:
            return float(number)  # of "NaN" and "Infinity", too
        case _:
            return None


def service_name(resource_spans: Tree) -> str:
    """Empty where it is not told."""
    attributes = several(single(resource_spans, "resource"), "attributes")
    found = next((scalar(item) for item in attributes if item.get("key") == "service.name"), "")
    return found if isinstance(found, str) else ""
