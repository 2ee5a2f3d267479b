"""Every span its own evidence, where that is hard: one test a case, each with real programs under load.

What a span did is measured by the program that made it; what is asked of its claims, and how far they may be off, is
in testbed/truth.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.testbed.line import Line, Outcome, line
from tests.e2e.testbed.spans import KeptSpan
from tests.e2e.testbed.truth import Judgement, Truth, judge_all
from tests.e2e.testbed.workload import Load

# Cause: what is hard about it.
CASES = {
    "child": "a goroutine made by the handler is blocked for it",
    "grandchild": "so is one made by a goroutine that the handler made",
    "group": "three goroutines are blocked at once: time counts once",
    "nested": "of spans inside spans on one goroutine each has its own and those inside",
    "fan_out": "of goroutines with spans of their own each has its own, and their parent all",
    "end_twice": "what is waited for after the first end of a span is no more that span's",
    "ended_by_child": "a goroutine made inside a span ends it",
    "pool": "a worker made before, with no span of its own, waits for nobody",
    "pool_span": "a worker with a span of its own waits for that, and for those around it",
    "left_behind": "a goroutine that is blocked when the span ends has nothing to do with it",
    "handed_over": "a span passed on to another goroutine claims nothing; those around it do",
    "never_ended": "a span that never ends does no harm to those around it",
    "given_times": "a span with times given by hand claims nothing",
    "client_http": "a client's call waits on the goroutines of its connection",
    "client_https": "so it does through TLS",
    "client_http2": "so it does on a connection of many calls",
    "client_grpc": "so it does in gRPC",
    "client_dial": "so it does on a connection made for it",
    "client_idle": "what the connection waits for after the call is not the call's",
    "database": "a driver of database/sql waits on its caller's goroutine",
    "post_body": "what net/http reads ahead from inside the handler is not the handler's",
    "post_slow": "a handler that waits for the body is blocked",
    "flush": "a tail ends with the next request",
    "flush_long": "a tail that is still blocked at the end of its time is cut off",
    "nothing": "neighbours of all these, on the same connections, are not marked",
    "sleep": "who sleeps is not blocked",
}
FEWEST = 12  # spans of a case

STREAMS = 256
CLIENTS_ON_ONE_CONNECTION = ("client_grpc", "client_http2")


def told(on: Line, judgement: Judgement, case: str) -> str:
    """The message of a failure: the case, what is wrong, and why the first of these spans left as it did."""
    first = on.explain(judgement.findings[0].truth.id[:32])[:6000] if judgement.findings else ""
    return f"{case}:\n{judgement.report(judgement.findings)}\n{first}"


def assert_right(on: Line, truth: list[Truth], spans: list[KeptSpan], case: str) -> None:
    judgement = judge_all(truth, spans)
    assert not judgement.findings, told(on, judgement, case)


@pytest.fixture(scope="module")
def on(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with line(tmp_path_factory.mktemp("hard-cases")) as made:
        made.wait_until_watching()
        yield made


@pytest.fixture(scope="module")
def outcome(on: Line) -> Outcome:
    """All cases at once, beside goroutines that are blocked all the time."""
    return on.run(Load(label="cases", mix="all", sequences=1500, concurrency=48, rate=250.0))


@pytest.mark.parametrize("cause", CASES)
def test_case(on: Line, outcome: Outcome, cause: str) -> None:
    truth = [t for t in outcome.truth if t.cause == cause]
    assert len(truth) >= FEWEST, f"{CASES[cause]}: only {len(truth)} spans"
    assert_right(on, truth, outcome.spans, f"{cause}: {CASES[cause]}")


def test_no_case_has_a_finding_that_the_others_do_not_name(on: Line, outcome: Outcome) -> None:
    assert_right(on, [t for t in outcome.truth if t.cause not in CASES], outcome.spans, "the other causes")


def test_nothing_but_claims_is_changed(outcome: Outcome) -> None:
    assert not outcome.changes, "\n".join(outcome.changes[:5])


def test_a_span_that_claims_nothing_says_at_most_that_it_is_incomplete(outcome: Outcome) -> None:
    claims = outcome.claims()
    innocent = [claims[t.id] for t in outcome.truth if t.blocked is False]
    assert all(set(c) <= {"ebpf.complete", "ebpf.match.method"} for c in innocent), [c for c in innocent if c][:5]


@pytest.mark.parametrize("cause", ["pipe_kernel", "child", "client_grpc", "client_http2", "sleep"])
def test_of_256_streams_at_once_on_one_connection_each_has_its_own(on: Line, cause: str) -> None:
    load = Load(label=f"streams-{cause}", only=cause, over="grpc", sequences=2 * STREAMS, concurrency=STREAMS, rate=0)
    outcome = on.run(load)
    case = f"{STREAMS} gRPC streams at once, {cause}"
    if cause not in CLIENTS_ON_ONE_CONNECTION:
        assert_right(on, outcome.truth, outcome.spans, case)
        return
    # So many goroutines on few cores may run some time after their answer has come, while the connection waits for
    # others: then a wait of others may be counted. Where that is long, the span says that it is not whole. What the
    # reader's own thread slept for, the program cannot know.
    claims = outcome.claims()
    certain = [t for t in outcome.truth if claims[t.id].get("ebpf.complete") is not False]
    judgement = judge_all(certain, outcome.spans)
    wrong = [finding for finding in judgement.findings if finding.what not in {"duration", "direct", "kind"}]
    assert not wrong, told(on, judgement, case)
    assert len(judgement.of("duration")) <= 0.05 * len(outcome.truth), told(on, judgement, case)
    unmarked = [t.id for t in outcome.truth if t.blocked and "ebpf.system_call_blocked" not in claims[t.id]]
    assert len(unmarked) <= 0.02 * len(outcome.truth), f"{len(unmarked)} of {len(outcome.truth)} claim nothing"


def test_a_pause_between_two_requests_of_a_connection_is_neithers(on: Line) -> None:
    sequence = "nothing,gap,nothing,gap,post_slow,gap,client_http,gap,client_idle"
    outcome = on.run(Load(label="gaps", only=sequence, sequences=60, concurrency=16, rate=0))
    assert_right(on, outcome.truth, outcome.spans, "keep-alive connections with pauses")


def test_spans_that_are_not_sampled_do_no_harm_to_those_that_are(programs: Path, tmp_path: Path) -> None:
    load = Load(label="sampled", mix="all", sequences=800, concurrency=48, rate=250.0, unsampled=0.4)
    with line(tmp_path, sampled=0.5) as on:
        on.wait_until_watching()
        outcome = on.run(load)
        everything = on.service.truth()
        assert_right(on, outcome.truth, outcome.spans, "half of the traces sampled, and some parents not")
    assert not everything, "what was measured is to be forgotten with the load"
    servers = sum(t.name == "server" for t in outcome.truth)
    assert 0.3 * load.sequences < servers, "most requests are of sampled traces, or none"
    assert not outcome.changes, "\n".join(outcome.changes[:5])


def test_a_span_longer_than_evidence_is_kept_is_right_or_says_that_it_is_not_whole(
    programs: Path, tmp_path: Path
) -> None:
    with line(tmp_path, ebpf={"retention": "2s"}) as on:
        on.wait_until_watching()
        longer = Load(
            label="longer", only="early", sequences=24, concurrency=24, rate=0, shortest_ms=3000, longest_ms=4000
        )
        outcome = on.run(longer)
        claims = outcome.claims()
        for truth in outcome.truth:
            found = judge_all([truth], outcome.spans)
            whole = claims[truth.id].get("ebpf.complete", True)
            assert not found.findings or whole is False, told(on, found, "a span longer than the retention")
        assert any(claims[t.id].get("ebpf.complete") is False for t in outcome.truth), "no span says so"
        shorter = on.run(Load(label="shorter", only="early,nothing", sequences=24, concurrency=8, rate=0))
        assert_right(on, shorter.truth, shorter.spans, "spans shorter than the retention")
