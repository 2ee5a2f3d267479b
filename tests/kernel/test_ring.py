"""The native reader of ring buffers moves what probes write into the evidence log, on a real ring buffer."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from enricher._native import Drained, LogWriter, Ring
from enricher.evidence.records import RECORD_SIZE, Event, EventKind
from enricher.observer.libbpf import Map, Object, Spec
from tests.kernel.conftest import CompileProbe

RING_BYTES = 65_536
LOG_HEADER_BYTES = 4096
ROOM = RING_BYTES // (RECORD_SIZE + 8)  # records that fit at once

# Writes as many records as it is told to, the n-th of all with start_ns = n.
PRODUCER = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "events.h"
char LICENSE[] SEC("license") = "GPL";

struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, RING_BYTES); } events SEC(".maps");
struct order { __u32 count, kind, size, discard; };
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, struct order); }
orders SEC(".maps");
__u64 next;

static __noinline long write(__u32 n, struct order *order)
{
	struct event *event;
	__u64 small = n;

	if (order->size != sizeof(*event))
		return bpf_ringbuf_output(&events, &small, sizeof(small), BPF_RB_NO_WAKEUP) != 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 1;
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = order->kind;
	event->start_ns = event->end_ns = ++next;
	event->goid = next;
	event->tgid = 42;
	if (order->discard)
		bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
	else
		bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("syscall") int produce(void *context)
{
	__u32 zero = 0, n;
	struct order *order = bpf_map_lookup_elem(&orders, &zero);

	if (!order)
		return -1;
	for (n = 0; n < MOST_AT_ONCE && n < order->count; n++)
		write(n, order);
	return 0;
}
""".replace("RING_BYTES", str(RING_BYTES)).replace("MOST_AT_ONCE", str(2 * ROOM))


@dataclass
class Producer:
    """A program that fills a ring buffer to order."""

    loaded: Object

    @property
    def ring(self) -> Map:
        return self.loaded.maps["events"]

    def write(self, kind: EventKind, count: int = 1, *, size: int = RECORD_SIZE, discard: bool = False) -> None:
        orders = b"".join(value.to_bytes(4, "little") for value in (count, kind, size, discard))
        self.loaded.maps["orders"].update(bytes(4), orders)
        assert self.loaded.programs["produce"].run() == 0


@pytest.fixture
def producer(compile_probe: CompileProbe) -> Iterator[Producer]:
    with Spec(compile_probe(PRODUCER)) as spec, spec.load() as loaded:
        yield Producer(loaded)


@dataclass
class Log:
    fd: int
    writer: LogWriter


@pytest.fixture
def log() -> Iterator[Log]:
    fd = os.memfd_create("evidence")
    yield Log(fd, LogWriter(fd, 8192))
    os.close(fd)


def drain(producer: Producer, log: Log) -> Drained:
    return Ring(producer.ring.fd, RING_BYTES).drain(log.writer)


def numbers(log: Log) -> list[int]:
    """Of the records in the log."""
    records = os.pread(log.fd, log.writer.position * RECORD_SIZE, LOG_HEADER_BYTES)
    return [event.start_ns for event in Event.iter_unpack(records)]


def test_every_record_is_moved_once_and_in_order(producer: Producer, log: Log) -> None:
    ring = Ring(producer.ring.fd, RING_BYTES)
    total = 0
    for count in (1, 0, 255, 256, 257, ROOM - 1, ROOM - 1):  # around the batch, and around the end of the ring
        producer.write(EventKind.WAIT, count)
        drained = ring.drain(log.writer)
        assert (drained.moved, drained.foreign, drained.caught_up) == (count, 0, True)
        total += count
    assert log.writer.position == total
    assert numbers(log) == list(range(1, total + 1))


def test_a_full_ring_is_drained_and_can_be_filled_again(producer: Producer, log: Log) -> None:
    producer.write(EventKind.SPAN_END, 2 * ROOM)
    first = drain(producer, log)
    assert ROOM - 2 <= first.moved <= ROOM
    producer.write(EventKind.SPAN_END, 2 * ROOM)
    assert drain(producer, log).moved == first.moved
    assert drain(producer, log).moved == 0


def test_kinds_go_where_they_are_needed(producer: Producer, log: Log) -> None:
    for kind in EventKind:
        producer.write(kind)
    drained = drain(producer, log)
    for_log = [
        *(EventKind.WAIT, EventKind.WAIT_GOING_ON, EventKind.SPAN_END, EventKind.PROCESS_EXIT),
        *(EventKind.CALL, EventKind.TRACEPARENT, EventKind.GOROUTINE_EXIT),
    ]
    told = [event.kind for event in Event.iter_unpack(drained.for_observer)]
    assert drained.moved == log.writer.position == len(for_log)
    assert told == [EventKind.PROCESS_EXEC, EventKind.PROCESS_EXIT]
    assert drained.foreign == len(EventKind) - len(for_log) - 1  # what only the observer may say


def test_discarded_records_are_passed_over_and_those_of_another_size_counted(producer: Producer, log: Log) -> None:
    producer.write(EventKind.WAIT, 3, discard=True)
    producer.write(EventKind.WAIT, 2, size=8)
    producer.write(EventKind.WAIT, 1)
    drained = drain(producer, log)
    assert (drained.moved, drained.foreign, drained.caught_up) == (1, 2, True)


def test_what_is_no_ring_buffer_cannot_be_mapped(producer: Producer, log: Log) -> None:
    for size in (0, 1000, RING_BYTES - 1, 2**40):
        with pytest.raises(OSError, match="Invalid argument"):
            Ring(producer.ring.fd, size)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Ring(-1, RING_BYTES)
    with pytest.raises(OSError):  # which one depends on the kind of map
        Ring(producer.loaded.maps["orders"].fd, RING_BYTES)
    assert drain(producer, log).caught_up
