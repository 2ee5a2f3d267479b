"""Scan, splice, sample and match, against protobuf's own parser.

`python -m benchmarks.wire [--quick] [--rounds N] [--json FILE]`: every figure is CPU time of this thread in ns a span,
for requests of 512, 64 and 8 spans of about 560 bytes with ten attributes, the spans of each request their own. All
that is compared is measured in turns, round by round.

`match` asks an index that holds as many span ends as the pipeline keeps, of 4,096 goroutines; the requests hold other
spans each time, so that what is found is in no cache, as in life.
"""

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from benchmarks.kit import Column, progress, table, write_json
from enricher._native import EvidenceIndex, LogWriter, Request, encode_attributes
from enricher.evidence.records import Event, EventFlag, EventKind, SpanIds, WaitKind
from enricher.sampling.threshold import threshold_of

SIZES = (512, 64, 8)
SPANS = 16_384  # of all requests of one size together
SPAN_ENDS = 262_144
GOROUTINES = 4096
TGID = 4242
TAIL_NS, THRESHOLD_NS = 300_000_000, 1_000_000
CLOCK_NS = 1_700_000_000_000_000_000
DURATION_NS = 10_000_000
PERIOD_NS = 30_000  # between two span ends of the whole process

ADDED = encode_attributes(
    {"ebpf.system_call_blocked": True, "ebpf.syscall.name": "write", "ebpf.syscall.blocked.duration": 0.03}
)
TENTH = (threshold_of(0.1), 1_000_000_000, True)
COLUMNS = tuple(Column(f"{size} spans a request", str(size), "{:.0f}".format) for size in SIZES)

Steps = dict[str, Callable[[], object]]


def span_ids(number: int) -> tuple[bytes, bytes]:
    """Trace and span id of one span end."""
    made = random.Random(number)
    return made.randbytes(16), made.randbytes(8)


def body(numbers: list[int], trace_state: str = "") -> bytes:
    """A request as the Go SDK with otelhttp writes it."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    for key, value in (("service.name", "checkout"), ("telemetry.sdk.language", "go")):
        resource.resource.attributes.add(key=key).value.string_value = value
    scope = resource.scope_spans.add()
    scope.scope.name = "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
    for number in numbers:
        trace_id, span_id = span_ids(number)
        end_ns = CLOCK_NS + end_of(number)
        span = scope.spans.add(
            trace_id=trace_id, span_id=span_id, parent_span_id=span_id, name="GET /api/v1/orders/{id}"
        )
        span.kind, span.flags, span.trace_state = Span.SPAN_KIND_CLIENT, 0x101, trace_state
        span.start_time_unix_nano, span.end_time_unix_nano = end_ns - DURATION_NS, end_ns
        for key, text in (
            ("http.request.method", "GET"),
            ("url.full", f"https://orders.shop.svc.cluster.local:8080/api/v1/orders/{number:08d}?expand=items"),
            ("server.address", "orders.shop.svc.cluster.local"),
            ("network.peer.address", "10.244.113.17"),
            ("user_agent.original", "Go-http-client/1.1 (linux; amd64) checkout/3.14.1"),
            ("network.protocol.version", "1.1"),
            ("k8s.pod.name", "checkout-5d8f7c9b6d-x2x7v"),
        ):
            span.attributes.add(key=key).value.string_value = text
        for key, count in (
            ("server.port", 8080),
            ("http.response.status_code", 200),
            ("http.response.body.size", 1000 + number % 100_000),
        ):
            span.attributes.add(key=key).value.int_value = count
        span.status.SetInParent()
    return request.SerializeToString()


def end_of(number: int) -> int:
    return 10**12 + number * PERIOD_NS


def index(blocked_every: int) -> EvidenceIndex:
    """Knows the ends of all spans; of one in so many (0: none) its goroutine was blocked for 5 ms."""
    fd = os.memfd_create("evidence")
    try:
        writer = LogWriter(fd, 1 << 20)
        made = EvidenceIndex(fd, 10**18, 1 << 18, SPAN_ENDS)
        made.sample_clock(0, CLOCK_NS)
    finally:
        os.close(fd)
    flags = EventFlag.PROCESS_HAS_GOROUTINES | EventFlag.PROCESS_HAS_SPAN_ENDS
    writer.append(Event(kind=EventKind.PROCESS, start_ns=1, tgid=TGID, flags=flags).pack())
    for number in range(SPAN_ENDS):
        writer.append(span_end(number).pack())
        if blocked_every and number % blocked_every == 0:
            writer.append(wait(number).pack())
    writer.heartbeat(end_of(SPAN_ENDS) + 10**9, end_of(SPAN_ENDS) + 10**9)
    made.poll()
    return made


def span_end(number: int) -> Event:
    trace_id, span_id = span_ids(number)
    end_ns, goid = end_of(number), 1 + number % GOROUTINES
    ids = SpanIds(trace_id=trace_id, span_id=span_id).pack()
    return Event(kind=EventKind.SPAN_END, start_ns=end_ns, end_ns=end_ns, goid=goid, tgid=TGID, detail=ids)


def wait(number: int) -> Event:
    end_ns = end_of(number) - 1_000_000
    goid = 1 + number % GOROUTINES
    kind = WaitKind.PARKED
    return Event(
        kind=EventKind.WAIT, start_ns=end_ns - 5_000_000, end_ns=end_ns, goid=goid, tgid=TGID, fd=9, wait_kind=kind
    )


def steps(size: int, indexes: dict[str, EvidenceIndex]) -> Steps:
    """What is measured for requests of `size` spans. Each call takes the next request."""
    chosen = random.Random(size).sample(range(SPAN_ENDS), SPANS)
    bodies = [body(chosen[at : at + size]) for at in range(0, SPANS, size)]
    strangers = [body([SPAN_ENDS + n for n in chosen[at : at + size]]) for at in range(0, SPANS, size)]
    sampled_before = [body(chosen[at : at + size], "ot=th:8") for at in range(0, SPANS, size)]
    next_body, next_sampled = cycle(bodies).__next__, cycle(sampled_before).__next__
    known, unknown = (cycle([Request.scan(one) for one in some]).__next__ for some in (bodies, strangers))
    patches = [(ordinal, ADDED) for ordinal in range(size)]

    def scan() -> object:
        return Request.scan(next_body())

    def scan_and_splice() -> object:
        return Request.scan(next_body()).splice(patches)

    def scan_and_sample() -> object:
        return Request.scan(next_body()).sample(TENTH, [], [])

    def scan_and_sample_again() -> object:
        return Request.scan(next_sampled()).sample(TENTH, [], [])

    def parse() -> object:
        return ExportTraceServiceRequest.FromString(next_body())

    def parse_add_serialise() -> object:
        request = ExportTraceServiceRequest.FromString(next_body())
        for span in request.resource_spans[0].scope_spans[0].spans:
            span.attributes.add(key="ebpf.system_call_blocked").value.bool_value = True
            span.attributes.add(key="ebpf.syscall.name").value.string_value = "write"
            span.attributes.add(key="ebpf.syscall.blocked.duration").value.double_value = 0.03
        return request.SerializeToString()

    def matching(index: EvidenceIndex, request: Callable[[], Request]) -> Callable[[], object]:
        return lambda: index.match(request(), TAIL_NS, THRESHOLD_NS)

    return {
        "scan": scan,
        "scan, splice 3 attributes on every span": scan_and_splice,
        "scan, sample a tenth": scan_and_sample,
        "scan, sample a tenth, each span with a tracestate": scan_and_sample_again,
        "match, no span known": matching(indexes["none"], unknown),
        "match, all known, none blocked": matching(indexes["none"], known),
        "match, all known, 5 % blocked": matching(indexes["some"], known),
        "protobuf: parse": parse,
        "protobuf: parse, add 3 attributes, serialise": parse_add_serialise,
    }


def ns_a_span(step: Callable[[], object], size: int, budget_ns: int) -> float:
    """CPU time of calls of `step` for about `budget_ns`, whole turns through the requests."""
    turn = SPANS // size
    calls = 0
    begin_ns = time.thread_time_ns()
    while True:
        for _ in range(turn):
            step()
        calls += turn
        used_ns = time.thread_time_ns() - begin_ns
        if used_ns >= budget_ns:
            return used_ns / calls / size


def rounds(count: int, budget_ns: int) -> Iterator[dict[str, dict[str, float]]]:
    indexes = {"none": index(0), "some": index(20)}
    measured = {size: steps(size, indexes) for size in SIZES}
    sizes = [len(body([n])) - len(body([])) for n in range(10)]
    progress(f"spans of {sum(sizes) / len(sizes):.0f} bytes")
    for _ in range(count):
        found: dict[str, dict[str, float]] = {}
        for size, functions in measured.items():
            for name, step in functions.items():
                found.setdefault(name, {})[str(size)] = ns_a_span(step, size, budget_ns)
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write every measurement here")
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    quick = arguments.quick
    for number, found in enumerate(rounds(1 if quick else arguments.rounds, 1_000_000 if quick else 60_000_000)):
        for name, row in found.items():
            rows.setdefault(name, []).append(row)
        progress(f"round {number}: scan {found['scan']['512']:.0f} ns a span")
    write_json(arguments.json, rows)
    print(table("ns of CPU a span, min / median / max", rows, COLUMNS))


if __name__ == "__main__":
    main()
