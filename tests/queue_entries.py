"""Entries as they stand in the queue between the policy and an exporter, without a policy."""

from enricher._native import Entry, Queue


def ready(queue: Queue, *bodies: bytes, replaced_by: bytes | None = None) -> list[Entry]:
    """Each request by itself, accepted and ready to be sent; with another body than it came with, if one is given."""
    for body in bodies:
        code, message, _ = queue.offer(body, "ipv4:127.0.0.1:1")
        assert code == 0, message
    entries = queue.take_new(0, 0)
    for entry in entries:
        if replaced_by is not None:
            entry.replace_body(replaced_by)
    queue.put(entries)
    return entries
