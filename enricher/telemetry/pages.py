"""What is to be seen of a running enricher over HTTP: /metrics, /healthz, /readyz and /explain/TRACE.

Any worker answers, and for all of them: of the others it tells what they have written on the board.
"""

import json
import os
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from enricher.board import Board
from enricher.telemetry import exposition
from enricher.telemetry.metrics import Series
from enricher.workers import Report, Roster, Standing, standings

Page = tuple[int, str, bytes]  # status, content type, content

_JSON: Final = "application/json"
_EXPLAIN: Final = "/explain/"
_INDEX: Final = b"/metrics /healthz /readyz /explain/<trace id>\n"


class Pages:
    """`pages(method, path)`. Thread-safe, and takes less than a second."""

    def __init__(
        self,
        board: Board,
        own: Callable[[], Report],
        series: Callable[[], Iterable[Series]],
        explain: Callable[[str], tuple[HTTPStatus, bytes]],
        evidence: Callable[[], str],
    ) -> None:
        """`own`, `series`: of this worker as of now. `explain` answers with JSON. `evidence`: its state."""
        self._board = board
        self._own = own
        self._series = series
        self._explain = explain
        self._evidence = evidence

    def __call__(self, method: str, path: str) -> Page:
        if method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET is answered here\n")
        path = path.partition("?")[0]
        if path == "/metrics":
            return HTTPStatus.OK, exposition.CONTENT_TYPE, self._metrics()
        if path == "/healthz":
            return self._health()
        if path == "/readyz":
            return self._readiness()
        if path.startswith(_EXPLAIN):
            status, answer = self._explain(path.removeprefix(_EXPLAIN))
            return status, _JSON, answer
        if path == "/":
            return _plain(HTTPStatus.OK, _INDEX)
        return _plain(HTTPStatus.NOT_FOUND, _INDEX)

    def serving(self) -> bool:
        """Whether all workers take spans and deliver them: what /readyz says."""
        found = self._standings()
        return bool(found) and all(one.serves for one in found if not one.member.ending)

    def _standings(self) -> list[Standing]:
        """Of all workers. What is wrong with this one is known better than by its last beat; but not to have told it
        for long is wrong, too."""
        own = self._own()
        found = []
        for standing in standings(self._board):
            of_own = standing.member.pid == os.getpid() and not standing.problem
            found.append(
                Standing(standing.member, own.state, "; ".join(own.problems), standing.note) if of_own else standing
            )
        return found

    def _metrics(self) -> bytes:
        roster = Roster.read(self._board)
        several = sum(not member.ending for member in roster.members) > 1
        told: dict[str, Iterable[Series]] = {"": [*self._of_all(), *roster.series()]}
        for standing in self._standings():
            member = standing.member
            name = member.name if several or member.ending else ""
            series = self._series() if member.pid == os.getpid() else standing.series()
            told[name] = [*told.get(name, ()), *series]
        return "".join(exposition.text(told)).encode()

    def _of_all(self) -> Iterable[Series]:
        found = [one for one in self._standings() if not one.member.ending]
        serving = sum(one.serves for one in found)
        yield Series.gauge("workers", "processes of the pipeline that there should be", len(found))
        yield Series.gauge("workers_serving", "of these, those that take spans and deliver them", serving)
        yield Series.gauge("pipeline_serving", "1 while all workers serve", float(serving == len(found) > 0))

    def _health(self) -> Page:
        """Whether every process works: one that has died, or is not heard of, or has lost a thread does not."""
        found = self._standings()
        broken = {one.member.name: one.problem for one in found if one.problem and not one.member.ending}
        return self._told(not broken and bool(found), found)

    def _readiness(self) -> Page:
        return self._told(self.serving(), self._standings())

    def _told(self, good: bool, found: list[Standing]) -> Page:
        workers = {one.member.name: one.problem or one.state.name.lower() for one in found}
        answer = {"status": "ok" if good else "unavailable", "workers": workers, "evidence": self._evidence()}
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        return status, _JSON, json.dumps(answer).encode() + b"\n"


def _plain(status: HTTPStatus, body: bytes) -> Page:
    return status, "text/plain; charset=utf-8", body
