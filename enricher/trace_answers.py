"""Answers why the spans of a trace left as they did, while the pipeline runs: GET /explain/<trace id>, as JSON.

Asked on the thread of the metrics' endpoint. What needs the join is done by the policy's thread, span by span
between its turns, so that spans do not wait for the curious.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from typing import Final, Protocol, TypeVar

from enricher.join.explanation import SpanExplanation
from enricher.join.joiner import Joiner
from enricher.join.methods.method import Window
from enricher.recording.recent import KEPT_BYTES, KEPT_NS, Decided, Recent
from enricher.recording.trace import MOST_SPANS, FoundSpan, by_start, found_spans
from enricher.telemetry.logs import FirstTimes, get_logger
from enricher.trace_ids import parsed

T = TypeVar("T")

_DEADLINE_S: Final = 0.9


class Asked(Protocol):
    """The policy."""

    def ask(self, question: Callable[[Joiner], T]) -> Future[T]: ...


class TraceAnswers:
    """`answers(trace_id)` with the status of HTTP and a JSON object: a `TraceExplanation`, or `error` and `fix`."""

    def __init__(self, policy: Asked, recent: Recent, tail_ns: int, threshold_ns: int) -> None:
        self._policy = policy
        self._recent = recent
        self._tail_ns = tail_ns
        self._threshold_ns = threshold_ns
        self._first_times = FirstTimes()
        self._log = get_logger()

    def __call__(self, trace_id: str) -> tuple[HTTPStatus, bytes]:
        if (wanted := parsed(trace_id)) is None:
            return _refusal(HTTPStatus.BAD_REQUEST, "this is no trace id", "a trace id is 32 hex digits, not all 0")
        deadline_s = time.monotonic() + _DEADLINE_S
        try:
            kept = self._policy.ask(lambda _: self._recent.all()).result(_DEADLINE_S)
        except TimeoutError:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the pipeline is too busy to answer", "ask again")
        found = [(decided, span) for decided in kept for span in found_spans(decided, wanted)]
        if not found:
            return _refusal(HTTPStatus.NOT_FOUND, _unknown(kept), _UNKNOWN_FIX)
        asked = [(span, self._ask(decided, span)) for decided, span in found[:MOST_SPANS]]
        explained = []
        for span, answer in asked:
            try:
                explained.append(span.explained(answer.result(max(0, deadline_s - time.monotonic()))))
            except TimeoutError:
                answer.cancel()
            except Exception as error:  # noqa: BLE001 - one span less, and told in the log
                if self._first_times(type(error)):
                    self._log.exception("a span could not be explained", error=error)
        explanation = by_start(wanted, explained, len(found) - len(explained))
        return HTTPStatus.OK, json.dumps(explanation.tree()).encode()

    def _ask(self, decided: Decided, span: FoundSpan) -> Future[SpanExplanation]:
        window = Window(self._tail_ns, self._threshold_ns, decided.decision.settled_ns)
        return self._policy.ask(lambda joiner: joiner.explain(decided.request, span.ordinal, window))


_UNKNOWN_FIX: Final = (
    "ask sooner, see to it that its spans come through this enricher, or keep everything by `enricher record FILE` "
    "and ask with --recording FILE"
)


def _unknown(kept: list[Decided]) -> str:
    since_s = (time.monotonic_ns() - kept[0].decision.at_ns) / 1e9 if kept else 0
    remembered = f"{len(kept)} requests of the last {since_s:.0f} s" if kept else "no request at all"
    return (
        f"no span of this trace is remembered. Remembered are {remembered}; at most those of {KEPT_NS / 1e9:.0f} s "
        f"and {KEPT_BYTES >> 20} MiB are"
    )


def _refusal(status: HTTPStatus, error: str, fix: str) -> tuple[HTTPStatus, bytes]:
    return status, json.dumps({"error": error, "fix": fix}).encode()
