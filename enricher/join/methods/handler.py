"""What the handler of a request over HTTP/1 waited for, where the goroutine is known that read the request.

net/http reads a request, runs its handler and writes the response on one goroutine, one request after the other. What
the handler waited for is what that goroutine was blocked in, and the goroutines that it made for this request.
"""

from collections.abc import Callable, Iterator

from enricher._native import EvidenceIndex, Wait
from enricher.evidence.records import EventFlag
from enricher.join.blocked import KernelSpan
from enricher.join.methods.one_by_one import FOR_EVER_NS, Ruling, rule

GOROUTINES_LOOKED_AT = 256

IsOnConnection = Callable[[Wait], bool]


def rulings(
    index: EvidenceIndex,
    handler: tuple[int, int],
    is_on_connection: IsOnConnection,
    times: KernelSpan,
    threshold_ns: int,
) -> list[Ruling]:
    """On the waits of the handler's goroutine (process and goroutine), and of those made by it, by generations."""
    tgid, goid = handler
    found = [
        _of_handler(wait, is_on_connection, times, threshold_ns)
        for wait in index.waits(tgid, goid, times.start_ns, times.end_ns)
    ]
    makers, looked_at = [goid], {goid}
    while makers and len(looked_at) < GOROUTINES_LOOKED_AT:
        made = [child for maker in makers for child in index.children(tgid, maker, times.start_ns, times.end_ns)]
        makers = [child for child in made if child not in looked_at]
        looked_at.update(makers)
        for child in makers:
            found += _of_child(index.waits(tgid, child, 0, FOR_EVER_NS), is_on_connection, times, threshold_ns)
    return found


def _of_handler(wait: Wait, is_on_connection: IsOnConnection, times: KernelSpan, threshold_ns: int) -> Ruling:
    # A read of the body belongs to the handler. One that had begun before is the wait for the request.
    if _is_read(wait) and is_on_connection(wait) and wait.start_ns < times.start_ns:
        return Ruling(wait, claimed=False, why="it was the wait for the request")
    return rule(wait, times, threshold_ns)


def _of_child(
    waits: list[Wait], is_on_connection: IsOnConnection, times: KernelSpan, threshold_ns: int
) -> Iterator[Ruling]:
    """Nobody saw when it was made: one that was there before, or that lives on, may be of something else."""
    why = ""
    if any(wait.start_ns < times.start_ns for wait in waits):
        why = "its goroutine was there before the span"
    elif any(wait.going_on or wait.end_ns > times.end_ns for wait in waits):
        why = "its goroutine went on after the span"
    for wait in waits:
        if times.inside_ns(wait) <= 0:
            continue
        if _is_read(wait) and is_on_connection(wait):
            # net/http has a child look out, while the handler runs, for the end of the connection.
            yield Ruling(wait, claimed=False, why="it looked out for the end of the connection")
        elif why:
            yield Ruling(wait, claimed=False, why=why)
        else:
            yield rule(wait, times, threshold_ns)


def _is_read(wait: Wait) -> bool:
    return not wait.flags & EventFlag.WAIT_FOR_WRITE
