"""What a binary is, found out on a thread beside the one that drains the events.

Inspection takes milliseconds for an ordinary binary and may take a second for one made to waste our time; the events
must not wait for that. A thread is enough: the inspection is plain Python that reads with pread from a budget, so it
cannot crash the process, keeps nothing, and gives the interpreter away every few milliseconds.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from enricher.evidence.records import OFFSET_NONE, LabelsKind, ProcessLayout
from enricher.golang import binary
from enricher.golang.binary import GoBinary, UnreadableBinary
from enricher.observer.uprobes import Uprobe, UprobeTarget, connection_cookie, maker_cookie
from enricher.processes.proc import FileIdentity
from enricher.telemetry.logs import get_logger

_LONG_S = 0.1  # five times what a binary of 50 MB takes
_REST = 4  # times as long as a long inspection took: then the most that can be taken of us is a fifth of a core

_START_SPAN_CONTEXT = 72  # in probes/spans.bpf.c: behind the return address and the parent's context

_LABELS_KINDS = {"map": LabelsKind.MAP, "slice": LabelsKind.SLICE}

SDK_MODULE = "go.opentelemetry.io/otel/sdk"


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A Go binary, as far as watching it is concerned.

    `layout` has no flags; None if that of the runtime is not known. `targets`: all that is known of where to probe it.
    `lacks`: sentences that say why something is not known.
    """

    go_version: str
    sdk_version: str | None
    is_collector: bool
    layout: ProcessLayout | None
    targets: tuple[UprobeTarget, ...]
    lacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotGo:
    """Any other program."""


@dataclass(frozen=True, slots=True)
class Uninspected:
    """A program that could not be inspected, and why."""

    reason: str


Inspected = GoProgram | NotGo | Uninspected


class Inspector:
    """Inspects binaries one after the other. Its thread starts with the first."""

    def __init__(self, inspect: Callable[[str], GoBinary | None] = binary.inspect) -> None:
        self._inspect = inspect
        self._requests: SimpleQueue[tuple[FileIdentity, int] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[FileIdentity, Inspected]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, identity: FileIdentity, fd: int) -> None:
        """Takes an open binary; `fd` may be closed at once. The result comes by `results` under `identity`."""
        self._requests.put((identity, os.dup(fd)))
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="inspection", daemon=True)
            self._thread.start()

    @property
    def has_results(self) -> bool:
        """Whether `results` would give any."""
        return not self._results.empty()

    def results(self) -> Iterator[tuple[FileIdentity, Inspected]]:
        """Those there are now."""
        while True:
            try:
                yield self._results.get_nowait()
            except Empty:
                return

    def close(self) -> None:
        """Inspects nothing more. Does not wait for what is under inspection."""
        if self._thread is not None:
            self._requests.put(None)

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            identity, fd = request
            began_s = time.monotonic()
            try:
                found = self._inspect(f"/proc/self/fd/{fd}")
                result: Inspected = NotGo() if found is None else _go_program(found)
            except UnreadableBinary as error:
                result = Uninspected(error.problem)
            # Whatever a binary makes of the parser, it must not end the inspection of the others.
            except Exception as error:  # noqa: BLE001
                get_logger().exception("the inspection of a binary failed")
                result = Uninspected(f"{type(error).__name__}: {error}")
            finally:
                os.close(fd)
            self._results.put((identity, result))
            took_s = time.monotonic() - began_s
            if took_s > _LONG_S:
                time.sleep(took_s * _REST)


def _go_program(found: GoBinary) -> GoProgram:
    return GoProgram(
        go_version=found.go_version,
        sdk_version=found.modules.get(SDK_MODULE),
        is_collector=found.is_collector,
        layout=_layout(found),
        targets=_targets(found),
        lacks=tuple(reason.sentence for reason in found.reasons),
    )


def _targets(found: GoBinary) -> tuple[UprobeTarget, ...]:
    sdk = found.sdk
    start_known = sdk is not None and sdk.start_span_context == _START_SPAN_CONTEXT
    points = {
        Uprobe.SPAN_END: None if sdk is None else found.span_end,
        # The program that reads the context from the stack knows one place where it can be.
        Uprobe.SPAN_START: found.span_start if start_known else None,
        Uprobe.GOROUTINE_EXIT: found.goroutine_exit,
    }
    targets = [UprobeTarget(uprobe, point.file_offset) for uprobe, point in points.items() if point]
    if made := found.goroutine_made:
        cookie = maker_cookie(made.address, found.background_reader)
        targets.append(UprobeTarget(Uprobe.GOROUTINE_MADE, made.file_offset, cookie))
    for call in found.calls:
        cookie = connection_cookie(call.connection_offset, multiplexed=call.multiplexed, over=call.over)
        targets.append(UprobeTarget(Uprobe.CONNECTION_CALL, call.point.file_offset, cookie))
    return tuple(targets)


def _layout(found: GoBinary) -> ProcessLayout | None:
    runtime, sdk = found.runtime, found.sdk
    if runtime is None:
        return None
    return ProcessLayout(
        g_m=runtime.g_m,
        g_goid=runtime.g_goid,
        g_parent_goid=OFFSET_NONE if runtime.g_parent_goid is None else runtime.g_parent_goid,
        m_curg=runtime.m_curg,
        g_tracking_seq=runtime.g_tracking_seq,
        wait_steps=runtime.wait_steps,
        g_waitreason=runtime.g_waitreason,
        span_context=OFFSET_NONE if sdk is None else sdk.span_context,
        span_end_time=OFFSET_NONE if sdk is None else sdk.end_time,
        span_parent=OFFSET_NONE if sdk is None else sdk.parent,
        span_kind=OFFSET_NONE if sdk is None else sdk.span_kind,
        g_labels=runtime.g_labels,
        g_gopc=runtime.g_gopc,
        labels_kind=_LABELS_KINDS[runtime.labels_kind],
        poll_sysfd=runtime.poll_sysfd,
        net_family=runtime.net_family,
        net_sotype=runtime.net_sotype,
    )
