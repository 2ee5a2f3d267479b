"""What of a running enricher has to be started anew for another configuration to hold."""

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from enricher.config.model import Settings
from enricher.config.tree import plain

# observer, pipeline: the process starts anew. workers: some are added or end. live: running processes take it over.
Part = Literal["observer", "pipeline", "workers", "live"]

_BOTH: Final[frozenset[Part]] = frozenset({"observer", "pipeline"})
_OBSERVER: Final[frozenset[Part]] = frozenset({"observer"})
_PIPELINE: Final[frozenset[Part]] = frozenset({"pipeline"})
_WORKERS: Final[frozenset[Part]] = frozenset({"workers"})
_LIVE: Final[frozenset[Part]] = frozenset({"live"})

# Whom a key concerns, or all keys of a section; any other concerns the pipeline. The observer forgets what it has
# seen when it starts anew: it does so only for what it uses.
_CONCERNS: Final[Mapping[str, frozenset[Part]]] = {
    "processors.ebpf.blocked_threshold": _BOTH,
    "processors.ebpf.probes": _OBSERVER,
    "processors.ebpf.ring_size": _OBSERVER,
    "processors.ebpf.select": _OBSERVER,
    "processors.sampling": _LIVE,
    # It looks for the processes that are connected there.
    "receivers.otlp.protocols.grpc.endpoint": _BOTH,
    "receivers.otlp.protocols.http.endpoint": _BOTH,
    "service.telemetry.logs.level": _LIVE,
    "service.workers": _WORKERS,
}


def changed_parts(old: Settings, new: Settings) -> frozenset[Part]:
    """The parts for which `new` differs from `old`; empty where nothing does."""
    before, after = dict(_leaves(plain(old))), dict(_leaves(plain(new)))
    parts: set[Part] = set()
    for key in before.keys() | after.keys():
        if before.get(key) != after.get(key):
            parts |= concerned(key)
    if (old.ebpf is None) != (new.ebpf is None):
        parts.add("observer")
    return frozenset(parts)


def concerned(key: str) -> frozenset[Part]:
    """The parts that the setting `key` (its dotted path) is for."""
    sections = (known for known in _CONCERNS if key == known or key.startswith(f"{known}."))
    return _CONCERNS.get(next(sections, key), _PIPELINE)


def _leaves(tree: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    """Dotted path and value; a section that is there counts as well."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield f"{path}{key}", {}
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
