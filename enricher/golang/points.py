"""All the places in a Go program that are worth a probe."""

from collections.abc import Mapping
from dataclasses import dataclass

from enricher.golang.client_calls import CLIENTS, CallPoint, Client
from enricher.golang.elf import ElfImage, UnreadableBinary
from enricher.golang.layouts import RuntimeLayout, SdkLayout, connection_offset, go_minor
from enricher.golang.pclntab import Function, FunctionTable, find_function_table
from enricher.golang.probe_point import REGISTER_ARGUMENTS_SINCE_MINOR, ProbePoint, call_point, probe_point
from enricher.golang.reason import Reason, ReasonCode

SPAN_END_FUNCTION = "go.opentelemetry.io/otel/sdk/trace.(*recordingSpan).End"
SPAN_START_FUNCTION = "go.opentelemetry.io/otel/sdk/trace.(*tracer).newRecordingSpan"
# What a go statement runs on the system stack; its call of the other one hands over a goroutine that is complete.
GOROUTINE_MAKER_FUNCTION = "runtime.newproc.func1"
GOROUTINE_QUEUE_FUNCTION = "runtime.runqput"
GOROUTINE_EXIT_FUNCTION = "runtime.goexit1"
# Starts a goroutine that looks out, while a request is served, whether its client goes away: it waits for nobody.
BACKGROUND_READER_FUNCTION = "net/http.(*connReader).startBackgroundRead"


@dataclass(frozen=True, slots=True)
class Points:
    """As in GoBinary. `reasons`: for each that somebody would miss."""

    span_end: ProbePoint | None = None
    span_start: ProbePoint | None = None
    goroutine_made: ProbePoint | None = None
    goroutine_exit: ProbePoint | None = None
    background_reader: tuple[int, int] | None = None
    calls: tuple[CallPoint, ...] = ()
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Build:
    """How a program was built: by which Go ("go1.26.8"), of which modules (path and version), and whether with a
    profile (go build -pgo)."""

    go_version: str
    modules: Mapping[str, str]
    profiled: bool


def find_points(image: ElfImage, build: Build, runtime: RuntimeLayout, sdk: SdkLayout | None) -> Points:
    """`sdk`: None where its layout is not known; then only calls are looked for.

    Those worth most come first, so that they are known even if reading the rest takes too long.
    """
    program = _program(image, build, runtime)
    if isinstance(program, Reason):
        return Points(reasons=(program,))
    span_end: ProbePoint | Reason | None = None
    span_start: ProbePoint | Reason | None = None
    goroutine_made: ProbePoint | Reason | None = None
    goroutine_exit: ProbePoint | Reason | None = None
    if sdk is not None:
        span_end = program.start(SPAN_END_FUNCTION, lost="ends of spans are not seen")
        if isinstance(span_end, Reason) and span_end.code is ReasonCode.FUNCTION_ABSENT:
            # Of the SDK it uses metrics alone, say: there is no span to tie anything to.
            return Points(reasons=(span_end,))
        if isinstance(span_end, ProbePoint):
            span_start = program.start(SPAN_START_FUNCTION, lost="starts of spans are not seen", inlinable=True)
        # Up to Go 1.20 a goroutine does not know who made it.
        if isinstance(span_start, ProbePoint) and runtime.g_parent_goid is not None:
            goroutine_made = program.goroutine_made()
            goroutine_exit = program.start(GOROUTINE_EXIT_FUNCTION, lost="ends of goroutines are not seen")
    calls = [call for client in CLIENTS for call in program.calls(client)]
    found = (span_end, span_start, goroutine_made, goroutine_exit, *calls)
    return Points(
        span_end=span_end if isinstance(span_end, ProbePoint) else None,
        span_start=span_start if isinstance(span_start, ProbePoint) else None,
        goroutine_made=goroutine_made if isinstance(goroutine_made, ProbePoint) else None,
        goroutine_exit=goroutine_exit if isinstance(goroutine_exit, ProbePoint) else None,
        background_reader=program.extent(BACKGROUND_READER_FUNCTION),
        calls=tuple(call for call in calls if isinstance(call, CallPoint)),
        # A table that cannot be read is so for one as for the other.
        reasons=tuple(dict.fromkeys(reason for reason in found if isinstance(reason, Reason))),
    )


def _program(image: ElfImage, build: Build, runtime: RuntimeLayout) -> "_Program | Reason":
    minor = go_minor(build.go_version)
    if minor is None or minor < REGISTER_ARGUMENTS_SINCE_MINOR[image.machine]:
        sentence = f"{build.go_version} does not pass arguments in registers on {image.machine}"
        return Reason(ReasonCode.PROBE_POINT_UNKNOWN, sentence)
    try:
        table = find_function_table(image)
    except UnreadableBinary as error:
        return _unreadable(error)
    if table is None:
        return Reason(ReasonCode.FUNCTIONS_UNREADABLE, "it has no function table of a known layout")
    return _Program(image, table, build, runtime.wrapper_func_id)


# Processes of a program that is broken here and there can still be watched, by their system calls.
def _unreadable(error: UnreadableBinary) -> Reason:
    return Reason(ReasonCode.FUNCTIONS_UNREADABLE, f"its function table cannot be read: {error.problem}")


class _Program:
    """The functions of a program. `lost` says what it means that one is not found, `inlinable` whether a profile may
    make the compiler put it into some of its callers."""

    def __init__(self, image: ElfImage, table: FunctionTable, build: Build, wrapper_func_id: int) -> None:
        self._image = image
        self._table = table
        self._build = build
        self._wrapper_func_id = wrapper_func_id

    def start(self, name: str, *, lost: str, inlinable: bool = False) -> ProbePoint | Reason:
        """The place to probe at the start of function `name`."""
        function = self._function(name)
        if function is None:
            return Reason(ReasonCode.FUNCTION_ABSENT, f"{lost}: there is no function {name}")
        if isinstance(function, Reason):
            return function
        return self._start(function, lost, inlinable=inlinable)

    def goroutine_made(self) -> ProbePoint | Reason:
        """The call with which a go statement hands over the goroutine that it has made."""
        lost = "goroutines are not tied to the spans that made them"
        maker, queue = self._function(GOROUTINE_MAKER_FUNCTION), self._function(GOROUTINE_QUEUE_FUNCTION)
        for function in (maker, queue):
            if isinstance(function, Reason):
                return function
        if not isinstance(maker, Function) or not isinstance(queue, Function):
            sentence = f"{lost}: there is no function {GOROUTINE_MAKER_FUNCTION} or no {GOROUTINE_QUEUE_FUNCTION}"
            return Reason(ReasonCode.FUNCTION_ABSENT, sentence)
        point = call_point(self._image, maker, queue.address)
        if point is None:
            sentence = f"{lost}: {maker.name} does not call {queue.name} once and in a known form"
            return Reason(ReasonCode.PROBE_POINT_UNKNOWN, sentence)
        return point

    def extent(self, name: str) -> tuple[int, int] | None:
        """Address and size of the function called `name`; None: it is not there, or not to be found."""
        function = self._function(name)
        return (function.address, function.size) if isinstance(function, Function) else None

    def calls(self, client: Client) -> tuple[CallPoint | Reason, ...]:
        """Where `client` takes a connection for a call, and where it gives it back; none: it is not linked in.

        All or nothing: a call whose end is not seen would go on for ever.
        """
        taken = self._taken(client)
        if taken is None:
            return ()
        if isinstance(taken, Reason) or client.giver is None:
            return (taken,)
        given = self.start(client.giver, lost=f"calls by {client.package} are not tied to connections")
        if isinstance(given, Reason):
            return (given,)
        return taken, CallPoint(given, taken.connection_offset, multiplexed=False, over=True)

    def _taken(self, client: Client) -> CallPoint | Reason | None:
        function: Function | Reason | None = None
        for name in client.functions:
            function = function or self._function(name)
        if not isinstance(function, Function):
            return function
        lost = f"calls by {client.package} are not tied to connections"
        build = self._build
        version = build.go_version if client.module is None else build.modules.get(client.module, "")
        offset = connection_offset(client.connection, version)
        if offset is None:
            what = f"{client.module or ''} {version or 'of unknown version'}".lstrip()
            return Reason(ReasonCode.CLIENT_VERSION_UNKNOWN, f"{lost}: the layout of {what} was not measured")
        point = self._start(function, lost, inlinable=client.inlinable)
        return CallPoint(point, offset, client.multiplexed) if isinstance(point, ProbePoint) else point

    def _start(self, function: Function, lost: str, *, inlinable: bool) -> ProbePoint | Reason:
        if inlinable and self._build.profiled:
            sentence = f"{lost}: it was built with a profile, which may have put {function.name} into its callers"
            return Reason(ReasonCode.PROBE_POINT_UNKNOWN, sentence)
        point = probe_point(self._image, function)
        if point is None:
            sentence = f"{lost}: {function.name} does not begin with a stack check of a known form"
            return Reason(ReasonCode.PROBE_POINT_UNKNOWN, sentence)
        return point

    def _function(self, name: str) -> Function | Reason | None:
        """The function called `name`, not the wrappers that the compiler made of it; None: it is not linked in."""
        try:
            functions = [f for f in self._table.functions(name) if f.func_id != self._wrapper_func_id]
        except UnreadableBinary as error:
            return _unreadable(error)
        if len(functions) > 1:
            return Reason(ReasonCode.FUNCTIONS_UNREADABLE, f"its function table has several functions called {name}")
        return functions[0] if functions else None
