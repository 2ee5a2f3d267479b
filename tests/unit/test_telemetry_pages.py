"""What is seen of a running enricher over HTTP, and how Prometheus reads it."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from enricher.board import Board
from enricher.telemetry import exposition, series_json
from enricher.telemetry.metrics import Distribution, Histogram, Metrics, Series
from enricher.telemetry.pages import Pages
from enricher.workers import SLOTS, Member, Report, Roster, State, slot_of

OTHER_PID = 1


@dataclass
class World:
    """A worker that is asked, one of however many."""

    board: Board
    metrics: Metrics = field(default_factory=Metrics)
    own: Report = field(default_factory=lambda: Report(os.getpid(), State.SERVING))
    pages: Pages = field(init=False)

    def __post_init__(self) -> None:
        self.pages = Pages(self.board, lambda: self.own, self.metrics.series, explained, lambda: "live")

    def workers(self, *others: tuple[State, list[str]], ending: bool = False) -> None:
        """There should be these beside the one that is asked, and they have said so of themselves."""
        members = [Member(0, slot_of(0, 0), os.getpid(), started_ns())]
        self.own.write(self.board, slot_of(0, 0))
        for worker, (state, problems) in enumerate(others, 1):
            report = Report(OTHER_PID, state, problems)
            report.write(self.board, slot_of(worker, 0), [Series.counter("seen_spans", "seen", 10 * worker)])
            members.append(Member(worker, slot_of(worker, 0), OTHER_PID, started_ns()))
        if ending:
            Report(OTHER_PID, State.ENDING).write(self.board, slot_of(0, 1), [Series.counter("seen_spans", "seen", 7)])
            members.append(Member(0, slot_of(0, 1), OTHER_PID, started_ns(), ending=True))
        Roster(tuple(members), {"pipeline": 1, "observer": 0}, {"applied": 2, "refused": 0}).write(self.board)

    def told(self, path: str) -> tuple[int, dict[str, str]]:
        status, kind, body = self.pages("GET", path)
        assert kind == "application/json"
        workers: dict[str, str] = json.loads(body)["workers"]
        return status, workers

    def scraped(self) -> dict[str, float]:
        status, kind, body = self.pages("GET", "/metrics")
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        return numbers(body.decode())


def started_ns() -> int:
    import time

    return time.monotonic_ns()


def explained(trace_id: str) -> tuple[HTTPStatus, bytes]:
    return HTTPStatus.NOT_FOUND, json.dumps({"asked": trace_id}).encode()


def numbers(text: str) -> dict[str, float]:
    """As Prometheus reads them: name and labels, to number."""
    return {
        sample.name + "".join(f"/{label}={value}" for label, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def world() -> Iterator[World]:
    board, fd = Board.make(SLOTS)
    made = World(board)
    made.workers()
    yield made
    os.close(fd)


WELL: tuple[State, list[str]] = (State.SERVING, [])


def test_when_all_workers_serve_all_is_well(world: World) -> None:
    world.workers(WELL, WELL)
    for path in ("/readyz", "/healthz", "/readyz?verbose"):
        assert world.told(path) == (200, {"0": "serving", "1": "serving", "2": "serving"})
    assert world.pages.serving()


def test_a_worker_that_starts_is_healthy_and_not_ready(world: World) -> None:
    world.workers((State.STARTING, []))
    assert world.told("/readyz") == (503, {"0": "serving", "1": "starting"})
    assert world.told("/healthz")[0] == 200
    assert not world.pages.serving()


def test_a_worker_that_has_lost_a_thread_is_named_by_all_others(world: World) -> None:
    world.workers(WELL, (State.SERVING, ["the policy has died"]))
    for path in ("/readyz", "/healthz"):
        assert world.told(path) == (503, {"0": "serving", "1": "serving", "2": "the policy has died"})
    assert not world.pages.serving()


def test_what_is_wrong_with_the_one_that_is_asked_is_told_before_its_next_beat(world: World) -> None:
    world.own = Report(os.getpid(), State.SERVING, ["the exporter has died"])
    assert world.told("/readyz") == (503, {"0": "the exporter has died"})
    assert world.told("/healthz")[0] == 503


def test_one_that_is_asked_and_has_not_told_how_it_is_for_long_is_not_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = started_ns() + 10_000_000_000
    monkeypatch.setattr("enricher.telemetry.pages.standings", lambda board: standings_at(board, now_ns))
    status, workers = world.told("/healthz")
    assert status == 503
    assert "has not been heard of" in workers["0"]


def standings_at(board: Board, now_ns: int) -> object:
    from enricher.workers import standings

    return standings(board, lambda: now_ns)


def test_a_worker_that_ends_is_shown_and_does_not_make_the_others_unready(world: World) -> None:
    world.workers(WELL, ending=True)
    assert world.told("/readyz") == (200, {"0": "serving", "0-ending": "ending", "1": "serving"})
    assert world.scraped()["enricher_seen_spans_total/worker=0-ending"] == 7


def test_where_nobody_is_known_to_be_there_nothing_is_well(world: World) -> None:
    Roster().write(world.board)
    assert world.told("/readyz") == (503, {})
    assert world.told("/healthz") == (503, {})
    assert not world.pages.serving()


def test_the_numbers_of_one_worker_have_no_label_for_it(world: World) -> None:
    world.metrics.exporter_sent_spans.add(3)
    found = world.scraped()
    assert found["enricher_exporter_sent_spans_total"] == 3
    assert (found["enricher_workers"], found["enricher_workers_serving"], found["enricher_pipeline_serving"]) == (
        1,
        1,
        1,
    )
    assert found["enricher_process_restarts_total/process=pipeline"] == 1
    assert found["enricher_config_reloads_total/outcome=applied"] == 2


def test_the_numbers_of_several_workers_are_all_told_and_told_apart(world: World) -> None:
    world.workers(WELL, (State.SERVING, ["the policy has died"]))
    world.metrics.add_source(lambda: [Series.counter("seen_spans", "seen", 5)])
    found = world.scraped()
    assert {key: value for key, value in found.items() if "seen_spans" in key} == {
        "enricher_seen_spans_total/worker=0": 5,
        "enricher_seen_spans_total/worker=1": 10,
        "enricher_seen_spans_total/worker=2": 20,
    }
    assert (found["enricher_workers"], found["enricher_workers_serving"], found["enricher_pipeline_serving"]) == (
        3,
        2,
        0,
    )


def test_a_trace_is_explained_as_json_and_what_is_not_there_says_what_is(world: World) -> None:
    assert world.pages("GET", "/explain/abc") == (404, "application/json", b'{"asked": "abc"}')
    assert [world.pages("GET", path)[0] for path in ("/", "/favicon.ico", "/explain", "")] == [200, 404, 404, 404]
    assert b"/healthz" in world.pages("GET", "/nothing")[2]
    assert world.pages("POST", "/metrics")[0] == 405
    assert world.pages("HEAD", "/readyz")[0] == 200


def test_a_histogram_counts_each_observation_in_its_bucket() -> None:
    histogram = Histogram("hold_seconds", "held", (0.1, 1.0), "s")
    for value in (0.05, 0.1, 0.5, 2.0, 3.0):
        histogram.add(value)
    assert histogram.distribution() == Distribution((0.1, 1.0), (2, 1, 2), 5.65)
    found = numbers("".join(exposition.text({"": [histogram.series()]})))
    assert found == {
        "enricher_hold_seconds_bucket/le=0.1": 2,
        "enricher_hold_seconds_bucket/le=1.0": 3,
        "enricher_hold_seconds_bucket/le=+Inf": 5,
        "enricher_hold_seconds_sum": 5.65,
        "enricher_hold_seconds_count": 5,
    }


def test_a_family_stands_together_whoever_tells_of_it() -> None:
    told = {"0": [Series.gauge("a", "", 1), Series.gauge("b", "", 2)], "1": [Series.gauge("b", "", 3)]}
    told["1"].append(Series.gauge("a", "", 4))
    lines = [line for line in "".join(exposition.text(told)).splitlines() if not line.startswith("#")]
    assert lines == [
        'enricher_a{worker="0"} 1',
        'enricher_a{worker="1"} 4',
        'enricher_b{worker="0"} 2',
        'enricher_b{worker="1"} 3',
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 1 << 62)


@settings(deadline=None)
@given(TEXT, TEXT, NUMBER)
def test_any_text_can_be_a_label_or_a_meaning(label: str, meaning: str, value: float) -> None:
    series = Series("odd", "gauge", meaning, "label", {label: value})
    text = "".join(exposition.text({'w"\\\n': [series]}))
    assert all(line.startswith(("# HELP ", "# TYPE ", "enricher_odd{")) for line in text.split("\n")[:-1])
    (found,) = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    assert found.labels == {"label": label, "worker": 'w"\\\n'}
    assert found.value == value


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, st.sampled_from(["counter", "gauge"]), TEXT, st.dictionaries(TEXT, NUMBER))))
def test_series_are_the_same_after_json(told: list[tuple[str, str, str, dict[str, float]]]) -> None:
    series = [Series(name, kind, meaning, "label", values, "By") for name, kind, meaning, values in told]  # type: ignore[arg-type]
    assert series_json.parsed(json.loads(json.dumps(series_json.plain(series)))) == series
