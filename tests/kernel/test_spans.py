"""Starts and ends of spans and the lineage of goroutines, as the probes tell them, against what a program saw."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enricher.evidence.records import Event, EventFlag, ProbeCounter, ProbeProgram
from enricher.observer.probe_set import Probe

from .conftest import Kernel
from .tracer import RELEASES, Done, Span, Times, Tracer, build

LoadProbes = Callable[..., Kernel]
PROBES = (Probe.SYSCALLS, Probe.GO_SDK, Probe.GO_RUNTIME)
NOBODY = (0, 0)


@pytest.fixture(scope="module", params=list(RELEASES))
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(str(request.param), tmp_path_factory.mktemp("tracer"))


@pytest.fixture
def tracer(program: Path, load_probes: LoadProbes) -> Iterator[Tracer]:
    running = Tracer(program, load_probes(*PROBES))
    yield running
    running.close()


def lies_in(time_ns: int, between: Times) -> bool:
    return between[0] <= time_ns <= between[1]


def is_of(event: Event, span: Span) -> bool:
    """Whether all that the event says of a span that was started and ended is right."""
    return (
        event.span.trace_id.hex() == span.trace_id
        and event.span.span_id.hex() == span.span_id
        and event.span.parent_span_id.hex() == span.parent_span_id
        and (event.root_goid, event.goid) == (span.start_goid, span.end_goid)
        and lies_in(event.start_ns, span.start)
        and lies_in(event.end_ns, span.end)
    )


def root_of(tracer: Tracer, done: Done, name: str) -> tuple[int, int]:
    event = tracer.wait(done.wait(name))
    return event.root_goid, event.root_ns


def test_all_probes_find_their_places(tracer: Tracer) -> None:
    has = (
        EventFlag.PROCESS_HAS_GOROUTINES
        | EventFlag.PROCESS_HAS_SPAN_ENDS
        | EventFlag.PROCESS_HAS_SPAN_STARTS
        | EventFlag.PROCESS_HAS_LINEAGE
    )
    assert tracer.flags & has == has


@pytest.mark.parametrize("action", ["nested", "kinds", "many", "ended_twice"])
def test_start_end_goroutines_and_parent_are_those_the_program_saw(tracer: Tracer, action: str) -> None:
    done = tracer.do(action)
    ends = tracer.ends(done.spans)
    for span in done.spans:
        assert is_of(ends[span.span_id], span)
        assert not ends[span.span_id].flags & EventFlag.SPAN_ENDED_BY_CHILD


def test_spans_of_clients_are_told_as_such(tracer: Tracer) -> None:
    done = tracer.do("kinds")
    ends = tracer.ends(done.spans)
    assert {span.name for span in done.spans if ends[span.span_id].flags & EventFlag.SPAN_OF_CLIENT} == {"client"}


@pytest.mark.parametrize(
    ("action", "by_child"),
    [
        ("handed_over", False),
        ("ended_by_child", True),
        ("ended_by_grandchild", True),
    ],
)
def test_a_span_may_end_on_another_goroutine(tracer: Tracer, action: str, by_child: bool) -> None:
    span = tracer.do(action).span()
    event = tracer.end(span)
    assert span.start_goid != span.end_goid
    assert is_of(event, span)
    assert bool(event.flags & EventFlag.SPAN_ENDED_BY_CHILD) == by_child


def test_a_child_made_before_the_span_is_no_child_of_it(tracer: Tracer) -> None:
    done = tracer.do("ended_by_earlier_child")
    inner = tracer.end(done.span("inner"))
    assert is_of(inner, done.span("inner"))
    assert not inner.flags & EventFlag.SPAN_ENDED_BY_CHILD


def test_goroutines_descend_from_the_span_they_were_made_in(tracer: Tracer) -> None:
    done = tracer.do("lineage")
    main = done.span("first").start_goid
    child = root_of(tracer, done, "child")
    assert child[0] == main
    assert lies_in(child[1], done.wait("child").made)
    # Whoever it makes in turn, and however deep, has the same root.
    for name in ("grandchild", "great-grandchild"):
        root = root_of(tracer, done, name)
        assert root[0] == main
        assert child[1] < root[1] < done.wait(name).made[0]
    in_kernel = root_of(tracer, done, "child in the kernel")
    assert in_kernel[0] == main
    assert lies_in(in_kernel[1], done.wait("child in the kernel").made)
    second = root_of(tracer, done, "child of the second")
    assert second[0] == main
    assert lies_in(second[1], done.wait("child of the second").made)


def test_a_child_with_a_span_is_the_root_of_those_it_makes_in_it(tracer: Tracer) -> None:
    done = tracer.do("lineage")
    root = root_of(tracer, done, "child of a child's span")
    assert root[0] == done.span("own").start_goid != done.span("first").start_goid
    assert lies_in(root[1], done.wait("child of a child's span").made)
    assert root_of(tracer, done, "grandchild after it")[0] == done.span("first").start_goid


@pytest.mark.parametrize("name", ["before", "between", "after"])
def test_goroutines_made_outside_of_spans_have_no_root(tracer: Tracer, name: str) -> None:
    assert root_of(tracer, tracer.do("lineage"), name) == NOBODY


def test_a_goroutine_of_a_timer_has_no_root(tracer: Tracer) -> None:
    assert root_of(tracer, tracer.do("timer"), "timer") == NOBODY


def test_a_g_that_is_used_again_has_the_root_of_its_new_goroutine(tracer: Tracer) -> None:
    done = tracer.do("reuse")
    assert len({wait.goid for wait in done.waits}) == len(done.waits) == 100
    for wait, event in zip(done.waits, tracer.waits(done.waits), strict=True):
        if wait.name == "outside":
            assert (event.root_goid, event.root_ns) == NOBODY
        else:
            assert event.root_goid == wait.maker
            assert lies_in(event.root_ns, wait.made)


def test_a_span_that_never_ends_is_the_root_of_those_made_in_it(tracer: Tracer) -> None:
    done = tracer.do("never_ended")
    assert root_of(tracer, done, "child")[0] == done.span("never ended").start_goid


def test_a_span_whose_start_was_not_seen_says_so(program: Path, load_probes: LoadProbes) -> None:
    running = Tracer(program, load_probes(*PROBES), without=EventFlag.PROCESS_HAS_SPAN_STARTS)
    done = running.do("nested")
    for span_id, event in running.ends(done.spans).items():
        (span,) = [span for span in done.spans if span.span_id == span_id]
        assert (event.start_ns, event.root_goid, event.goid) == (0, 0, span.end_goid)
        assert event.span.parent_span_id.hex() == span.parent_span_id
        assert lies_in(event.end_ns, span.end)
    running.close()


def open_spans(tracer: Tracer) -> int:
    return sum(1 for _ in tracer.kernel.probes._maps["spans"])


def test_what_has_ended_or_is_of_no_process_any_more_is_forgotten(tracer: Tracer) -> None:
    done = tracer.do("many")
    tracer.ends(done.spans)
    assert open_spans(tracer) == 0
    for action in ("handed_over", "ended_by_child", "ended_twice", "nested"):
        tracer.ends(tracer.do(action).spans)
    assert open_spans(tracer) == 0
    tracer.do("never_ended")
    assert open_spans(tracer) == 1
    tracer.kernel.probes.scan()
    assert open_spans(tracer) == 1
    tracer.kernel.probes.unwatch(tracer.process.pid)
    tracer.kernel.probes.scan()
    assert open_spans(tracer) == 0
    assert sum(1 for _ in tracer.kernel.probes._maps["goroutines"]) == 0


def test_nothing_is_lost_and_no_read_fails(tracer: Tracer) -> None:
    for action in ("many", "lineage", "reuse", "handed_over"):
        tracer.ends(tracer.do(action).spans)
    readings = tracer.kernel.probes.counters.readings()
    bad = {ProbeCounter.RING_FULL, ProbeCounter.MAP_FULL, ProbeCounter.READ_FAILED}
    assert {key: count for key, count in readings.items() if count and key[1] in bad} == {}
    assert tracer.kernel.probes.failures() == ()
    assert readings[ProbeProgram.SPAN_END, ProbeCounter.EVENTS] == 400 + 3 + 50 + 1
