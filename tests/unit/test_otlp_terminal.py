"""What a person sees of a trace."""

import io
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from enricher._native import Queue
from enricher.otlp.span_json import tree_of
from enricher.otlp.terminal import TerminalExporter
from enricher.otlp.terminal_text import claims_in_words, coloured, duration, lines_of, plain
from enricher.otlp.terminal_traces import ShownSpan, Trace, TraceGatherer, placed
from enricher.telemetry.metrics import Metrics
from tests.queue_entries import ready

S = 1_000_000_000
MS = 1_000_000
T0 = 1_700_000_000 * S
BLOCKED: dict[str, bool | int | float | str] = {
    "ebpf.system_call_blocked": True,
    "ebpf.syscall.name": "write",
    "ebpf.syscall.blocked.duration": 0.120,
    "ebpf.syscall.blocked.count": 1,
    "ebpf.syscall.blocked.kind": "parked",
    "ebpf.syscall.blocked.after_end": 0.080,
    "ebpf.syscall.peer": "10.0.0.1:443",
    "ebpf.match.method": "span_end",
}


def sid(number: int) -> bytes:
    return number.to_bytes(8, "big")


def shown(number: int, parent: int = 0, *, start_ms: int = 0, claims: dict[str, bool] | None = None) -> ShownSpan:
    return ShownSpan(
        span_id=sid(number),
        parent_span_id=sid(parent) if parent else b"",
        name=f"span {number}",
        kind=Span.SPAN_KIND_SERVER,
        service="shop",
        start_ns=T0 + start_ms * MS,
        end_ns=T0 + start_ms * MS + 10 * MS,
        error=None,
        claims=claims or {},
    )


def request(trace: int, *spans: Span, service: str = "shop") -> ExportTraceServiceRequest:
    built = ExportTraceServiceRequest()
    resource = built.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    for span in spans:
        span.trace_id = trace.to_bytes(16, "big")
        resource.scope_spans.add().spans.append(span)
    return built


def span(number: int, *, name: str = "", claim: bool = False) -> Span:
    built = Span(span_id=sid(number), name=name or f"span {number}")
    built.start_time_unix_nano, built.end_time_unix_nano = T0, T0 + 10 * MS
    if claim:
        built.attributes.add(key="ebpf.fd.exhausted").value.bool_value = True
    return built


def none_is_pushed_out(trace: Trace) -> None:
    raise AssertionError(f"{trace} had to make room")


def order(spans: Sequence[ShownSpan]) -> list[tuple[str, int]]:
    return [(place.span.name, len(place.last)) for place in placed(spans)]


def test_a_blocked_call_is_told_in_one_sentence() -> None:
    assert list(claims_in_words(BLOCKED)) == [
        "▸ blocked 120 ms in write to 10.0.0.1:443 (goroutine parked), 80.0 ms of it after the end"
    ]


def test_how_it_was_matched_is_told_where_it_is_not_exact_and_loss_always() -> None:
    claims = BLOCKED | {"ebpf.match.method": "process", "ebpf.complete": False}
    (line,) = claims_in_words(claims)
    assert line.endswith("  [matched by process, more may have been lost]")


def test_other_claims_are_told_by_their_names_with_times_as_times() -> None:
    assert list(claims_in_words({"ebpf.tcp.rtt.smoothed": 0.00123, "ebpf.tcp.retransmit.count": 3})) == [
        "▸ tcp rtt smoothed 1.23 ms",
        "▸ tcp retransmit count 3",
    ]


def test_a_stamped_span_says_whether_it_was_watched() -> None:
    assert list(claims_in_words({"ebpf.observed": False})) == ["▸ not watched: nothing is known of it"]
    watched = {"ebpf.observed": True, "ebpf.match.method": "span_end", "ebpf.complete": True}
    assert list(claims_in_words(watched)) == ["▸ watched: nothing held it up"]
    assert list(claims_in_words(watched | {"ebpf.complete": False})) == [
        "▸ watched, but evidence was lost: what happened to it is not known"
    ]
    assert list(claims_in_words({})) == []


def test_durations_have_three_figures() -> None:
    told = [duration(seconds) for seconds in (0.0, 5e-8, 4.44e-5, 0.00123, 0.0203, 0.312, 12.34, 250)]
    assert told == ["0 ns", "50 ns", "44.4 µs", "1.23 ms", "20.3 ms", "312 ms", "12.3 s", "250 s"]


def test_children_stand_below_their_parent_by_start() -> None:
    spans = [shown(3, 1, start_ms=5), shown(2, 1, start_ms=1), shown(1), shown(4, 2, start_ms=2)]
    assert order(spans) == [("span 1", 0), ("span 2", 1), ("span 4", 2), ("span 3", 1)]


def test_a_span_whose_parent_went_another_way_is_a_root_and_says_so() -> None:
    trace = Trace(b"t", spans=[shown(2, parent=1)])
    lines = [plain(line) for line in lines_of(trace)]
    assert lines[1].endswith("(its parent did not come by here)")


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=40))
def test_every_span_is_placed_once_whatever_its_ids_say(ids: list[tuple[int, int]]) -> None:
    spans = [shown(number, parent) for number, parent in ids]  # own parents, circles and doubles among them
    assert sorted(id(place.span) for place in placed(spans)) == sorted(map(id, spans))


def test_a_chain_of_many_spans_is_placed_without_recursion() -> None:
    spans = [shown(number, number - 1) for number in range(1, 5000)]
    assert len(order(spans)) == 4999


def test_a_whole_trace_reads_like_this() -> None:
    gatherer = TraceGatherer(S, push_out=none_is_pushed_out)
    parent, child = span(1, name="POST /pay"), span(2, name="load model")
    parent.kind, child.kind = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL
    parent.end_time_unix_nano = T0 + 312 * MS
    child.parent_span_id, child.start_time_unix_nano = parent.span_id, T0 + 3 * MS
    child.status.code, child.status.message = child.status.STATUS_CODE_ERROR, "no such model"
    for key, value in BLOCKED.items():
        attribute = parent.attributes.add(key=key).value
        if isinstance(value, bool):
            attribute.bool_value = value
        elif isinstance(value, int):
            attribute.int_value = value
        elif isinstance(value, float):
            attribute.double_value = value
        else:
            attribute.string_value = value
    gatherer.add(tree_of(request(0xABC, parent, service="checkout").SerializeToString()), 0)
    gatherer.add(tree_of(request(0xABC, child, service="fraud").SerializeToString()), 0)
    (trace,) = gatherer.rest()
    title, *rest = [plain(line) for line in lines_of(trace)]
    assert title.endswith("trace 00000000000000000000000000000abc  312 ms, 2 spans, 1 with evidence")
    assert rest == [
        "POST /pay                                          312 ms  server    +0 ns      checkout",
        "│    ▸ blocked 120 ms in write to 10.0.0.1:443 (goroutine parked), 80.0 ms of it after the end",
        "└─ load model                                     7.00 ms  internal  +3.00 ms   fraud  ERROR no such model",
        "",
    ]


@pytest.mark.parametrize("kind", [-100, -1, 0, 6, 2**31 - 1])
def test_a_kind_nobody_knows_is_left_off(kind: int) -> None:
    gatherer = TraceGatherer(S, none_is_pushed_out)
    unknown = span(1, name="x")
    unknown.kind = kind  # type: ignore[assignment]  # what the wire may hold
    gatherer.add(tree_of(request(1, unknown).SerializeToString()), 0)
    _, line, _ = [plain(line) for line in lines_of(gatherer.rest()[0])]
    assert line.split() == ["x", "10.0", "ms", "+0", "ns", "shop"]


def test_colours_are_only_around_the_text() -> None:
    (line, *_) = lines_of(Trace(b"t", spans=[shown(1)]))
    assert plain(line) in coloured(line).replace("\x1b[0m", "").replace("\x1b[1m", "").replace("\x1b[2m", "")


def test_names_of_others_cannot_steer_the_terminal() -> None:
    gatherer = TraceGatherer(S, push_out=none_is_pushed_out)
    gatherer.add(tree_of(request(1, span(1, name="a\x1b[2J\nb"), service="c\x07").SerializeToString()), 0)
    text = "\n".join(plain(line) for line in lines_of(gatherer.rest()[0]))
    assert "a�[2J�b" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_a_trace_is_due_once_it_has_been_quiet_for_the_time() -> None:
    gatherer = TraceGatherer(S, push_out=none_is_pushed_out)
    gatherer.add(tree_of(request(1, span(1)).SerializeToString()), 0)
    gatherer.add(tree_of(request(2, span(2)).SerializeToString()), S // 2)
    gatherer.add(tree_of(request(1, span(3)).SerializeToString()), S - 1)
    assert [trace.trace_id[-1] for trace in gatherer.quiet(S)] == []
    assert [trace.trace_id[-1] for trace in gatherer.quiet(S + S // 2)] == [2]
    (first,) = gatherer.quiet(2 * S - 1)
    assert [shown_span.span_id for shown_span in first.spans] == [sid(1), sid(3)]
    assert len(gatherer) == 0


def test_too_many_traces_make_room_by_showing_the_quietest() -> None:
    pushed_out: list[Trace] = []
    gatherer = TraceGatherer(S, pushed_out.append, max_traces=2)
    gatherer.add(tree_of(request(1, span(1)).SerializeToString()), 0)
    gatherer.add(tree_of(request(2, span(2)).SerializeToString()), 1)
    gatherer.add(tree_of(request(1, span(3)).SerializeToString()), 2)
    assert pushed_out == []
    gatherer.add(tree_of(request(3, span(4)).SerializeToString()), 3)
    assert [trace.trace_id[-1] for trace in pushed_out] == [2]


def test_too_much_text_makes_room_in_the_same_way() -> None:
    pushed_out: list[Trace] = []
    gatherer = TraceGatherer(S, pushed_out.append, max_bytes=10_000)
    for number in range(1, 101):
        gatherer.add(tree_of(request(number, span(number, name="n" * 1000, claim=True)).SerializeToString()), number)
    kept = gatherer.rest()
    assert [trace.trace_id[-1] for trace in [*pushed_out, *kept]] == list(range(1, 101))
    assert 5_000 < sum(trace.size for trace in kept) <= 10_000
    gatherer.add(tree_of(request(1, span(1)).SerializeToString()), 200)
    assert len(pushed_out) + len(kept) == 100, "what was taken out counts no longer"


def test_a_trace_that_never_rests_is_shown_in_pieces() -> None:
    gatherer = TraceGatherer(S, none_is_pushed_out)
    for number in range(20):
        gatherer.add(tree_of(request(1, span(number)).SerializeToString()), number * S // 2)
        assert gatherer.quiet(number * S // 2) == []
    gatherer.add(tree_of(request(1, span(20)).SerializeToString()), 10 * S)
    (trace,) = gatherer.quiet(10 * S)
    assert len(trace.spans) == 21


def test_of_a_span_that_claims_more_than_anybody_reads_the_first_claims_are_kept() -> None:
    gatherer = TraceGatherer(S, none_is_pushed_out)
    talker = span(1)
    for number in range(100):
        talker.attributes.add(key=f"ebpf.{number}").value.int_value = number
    gatherer.add(tree_of(request(1, talker).SerializeToString()), 0)
    assert len(gatherer.rest()[0].spans[0].claims) == 16


def test_of_a_huge_trace_the_first_spans_are_kept_and_those_with_evidence() -> None:
    gatherer = TraceGatherer(S, none_is_pushed_out, max_spans=3)
    gatherer.add(tree_of(request(1, *(span(number, claim=number == 9) for number in range(10))).SerializeToString()), 0)
    (trace,) = gatherer.rest()
    assert [shown_span.span_id for shown_span in trace.spans] == [sid(0), sid(1), sid(2), sid(9)]
    assert plain(list(lines_of(trace))[-2]) == "… and 6 more spans"
    assert ", 10 spans, 1 with evidence" in plain(next(iter(lines_of(trace))))


class Terminal:
    """An exporter that writes into a string."""

    def __init__(self, stream: io.StringIO | None = None) -> None:
        self.stream = stream or io.StringIO()
        self.queue = Queue(1000, 1 << 26, 1 << 24)
        self.metrics = Metrics()
        self.exporter = TerminalExporter(self.queue, self.metrics, stream=self.stream)

    def run(self, *bodies: bytes) -> str:
        ready(self.queue, *bodies)
        self.exporter.start()
        self.exporter.stop(10)
        return self.stream.getvalue()


def test_what_is_still_gathered_is_shown_at_the_end_and_every_span_is_counted() -> None:
    terminal = Terminal()
    text = terminal.run(request(1, span(1, name="GET /a")).SerializeToString())
    assert "GET /a" in text
    assert "\x1b" not in text  # no terminal
    assert terminal.metrics.exporter_sent_spans.total() == 1
    assert terminal.queue.statistics()["requests"] == 0


def test_of_more_traces_than_can_be_read_those_with_evidence_come_first_and_the_rest_is_counted() -> None:
    bodies = [request(n, span(n, name=f"GET /{n}", claim=n in (70, 71))).SerializeToString() for n in range(1, 101)]
    text = Terminal().run(*bodies)
    assert text.index("GET /70") < text.index("GET /71") < text.index("GET /1 ")
    assert "… and 95 more traces not shown, 0 of them with evidence" in text


def test_a_reader_that_has_gone_does_not_end_the_exporter() -> None:
    terminal = Terminal(Gone())
    terminal.run(request(1, span(1)).SerializeToString())
    assert terminal.metrics.exporter_sent_spans.total() == 1


def test_a_request_that_cannot_be_shown_is_counted_and_the_next_one_is_shown() -> None:
    terminal = Terminal()
    body = request(1, span(1, name="GET /a")).SerializeToString()
    ready(terminal.queue, body, replaced_by=b"\xff")
    text = terminal.run(body)
    assert "GET /a" in text
    assert terminal.metrics.exporter_send_failed_spans.values() == {"fault": 1}


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_what_comes_after_the_output_has_gone_is_not_counted_as_sent() -> None:
    terminal = Terminal(Gone())
    terminal.exporter._show()  # nothing yet, and so nothing has failed
    terminal.exporter._write(["a line"])
    terminal.run(request(1, span(1)).SerializeToString())
    assert terminal.metrics.exporter_sent_spans.total() == 0
    assert terminal.metrics.exporter_send_failed_spans.values() == {"output_gone": 1}


def test_a_process_without_standard_output_counts_its_spans_as_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    queue, metrics = Queue(10, 1 << 26, 1 << 24), Metrics()
    exporter = TerminalExporter(queue, metrics)
    ready(queue, request(1, span(1)).SerializeToString())
    exporter.start()
    exporter.stop(10)
    assert metrics.exporter_send_failed_spans.values() == {"output_gone": 1}


def test_a_terminal_of_few_characters_gets_what_it_can_show() -> None:
    written = io.BytesIO()
    terminal = Terminal(io.TextIOWrapper(written, encoding="ascii"))  # type: ignore[arg-type]
    body = request(1, span(1, name="GET /caf\u00e9")).SerializeToString()
    ready(terminal.queue, body)
    terminal.exporter.start()
    terminal.exporter.stop(10)
    assert b"GET /caf?" in written.getvalue()


def test_a_trace_that_cannot_be_shown_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken_for_one(trace: Trace) -> object:
        if trace.trace_id[-1] in (1, 2):
            raise ZeroDivisionError
        return lines_of(trace)

    monkeypatch.setattr("enricher.otlp.terminal.lines_of", broken_for_one)
    terminal = Terminal()
    text = terminal.run(*(request(n, span(n, name=f"GET /{n}")).SerializeToString() for n in (1, 2, 3)))
    assert "GET /3" in text
    assert caplog.text.count("a trace could not be shown") == 1, "told once"
