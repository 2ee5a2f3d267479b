"""The threads that serve the calls of a grpcio server, and what keeps silent senders from holding all of them.

grpcio gives a call to a thread when its headers have come, and the thread waits for the message. A sender that is
stopped, unplugged or ill-willed between the two would hold it for as long as its connection lives: four such, and
nobody is served any more. So handlers take the message themselves (as of a stream, of which they read one), and
say here that they wait. For each that has waited for a while another thread is started; a call whose message does
not come at all is cancelled; and where silent calls hold all the threads there may be, the oldest go at once.

Not simply a large pool: with 16 threads, a request costs 1.1 times what it costs with four.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Final, ParamSpec, TypeVar

import grpc

P = ParamSpec("P")
T = TypeVar("T")

_TURN_S: Final = 0.1
# A message follows its headers at once; on a slow line 4 MiB may take seconds, and do so in peace.
_SILENT_AFTER_S: Final = 0.25


class CallThreads(ThreadPoolExecutor):
    """`usual` threads, and one more for each call that waits for its message, up to `most`.

    A ThreadPoolExecutor by name alone, as grpcio takes no other for a single method.
    """

    def __init__(
        self,
        name: str,
        *,
        usual: int,
        most: int,
        message_timeout_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(1, thread_name_prefix=name)
        self._name = name
        self._usual = usual
        self._most = most
        self._message_timeout_s = message_timeout_s
        self._clock_s = clock_s
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting: dict[grpc.ServicerContext, float] = {}  # since when; the oldest first
        self._counting = Lock()
        self._running = 0
        self._wanted = usual
        self._over = Event()

    def start(self) -> None:
        self._start_threads(self._usual)
        Thread(target=self._watch, name=f"{self._name}-watch", daemon=True).start()

    @property
    def backlog(self) -> int:
        """Calls that wait for a thread."""
        return self._calls.qsize()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - whoever holds the future learns of it
                future.set_exception(error)

        self._calls.put(call)
        return future

    def message(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """The one message of a call. Ends the call where there is none, or it does not come in time."""
        self._waiting[context] = self._clock_s()
        try:
            for message in messages:
                return message
        finally:
            del self._waiting[context]
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there is no message in the call")
        raise AssertionError  # abort has raised

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - the base's
        """What is under way is not waited for: the server has ended it."""
        self._over.set()
        for _ in range(self._running):
            self._calls.put(None)

    def _start_threads(self, number: int) -> None:
        for _ in range(number):
            with self._counting:
                self._running += 1
            Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # or it would hold the request until the next one comes
            if self._running > self._wanted and self._may_end():
                return
        with self._counting:
            self._running -= 1

    def _may_end(self) -> bool:
        with self._counting:
            if self._running <= self._wanted:
                return False
            self._running -= 1
            return True

    def _watch(self) -> None:
        while not self._over.wait(_TURN_S):
            self._turn()

    def _turn(self) -> None:
        now_s = self._clock_s()
        waiting = self._waiting.copy()  # in one step of the interpreter: others add and remove
        silent = [context for context, since_s in waiting.items() if now_s - since_s >= _SILENT_AFTER_S]
        if not silent and self._wanted == self._usual:
            return
        too_late = sum(now_s - waiting[context] >= self._message_timeout_s for context in silent)
        if self._usual + len(silent) > self._most and self.backlog:
            too_late = max(too_late, len(silent) // 2)
        for context in silent[:too_late]:
            context.cancel()  # type: ignore[no-untyped-call]  # in its stubs
        self._wanted = min(self._most, self._usual + len(silent))
        self._start_threads(max(0, self._wanted - self._running))
