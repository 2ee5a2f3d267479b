"""All that a probe has to know about a Go executable, read from its file."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from enricher.golang.buildinfo import read_build_info
from enricher.golang.client_calls import GRPC_MODULE, NET_MODULE, CallPoint
from enricher.golang.elf import ElfImage, Machine, UnreadableBinary
from enricher.golang.layouts import RuntimeLayout, SdkLayout, runtime_layout, sdk_layout
from enricher.golang.points import Build, Points, find_points
from enricher.golang.probe_point import ProbePoint
from enricher.golang.reason import Reason, ReasonCode

__all__ = ["CallPoint", "GoBinary", "ProbePoint", "Reason", "ReasonCode", "UnreadableBinary", "inspect"]

_SDK_MODULE = "go.opentelemetry.io/otel/sdk"
_COLLECTOR_MODULE = "go.opentelemetry.io/collector/service"
# A big program has hundreds of modules, and one of these records is kept for each program.
_MODULES_KEPT = (_COLLECTOR_MODULE, GRPC_MODULE, NET_MODULE)
_MODULE_FAMILIES_KEPT = ("go.opentelemetry.io/otel", "go.opentelemetry.io/contrib/instrumentation/")


# A program built from files, not from a package, has no main module.
_MODULE = re.compile(r"^(mod|dep)\t", re.MULTILINE)
_PROFILE = re.compile(r"^build\t-pgo=(?!off$)\S", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class GoBinary:
    """A Go executable. What is None has its reason among `reasons`.

    `go_version` is "1.26.8", and the toolchain's whole name where it is no release. `modules` holds path and
    version of the OpenTelemetry modules that are linked in, and of those of clients; where one was replaced, the
    version is "=> " and the replacement.

    At all points g is in its own register (amd64 R14, arm64 X28), and the first argument in RAX or X0:
    - `span_end`, where the SDK ends a span that is recorded: the span;
    - `span_start`, where it makes one: nothing of use, its ids are on the stack (SdkLayout.start_span_context);
    - `goroutine_made`, where a go statement hands over the new goroutine: the second argument, in RBX or X1, is its
      g, with all fields set. What runs there is the scheduler: the g register holds the g0 of the thread, and the
      goroutine that made it is g0.m.curg;
    - `goroutine_exit`, where a goroutine has returned from its function: nothing;
    - `calls`, where clients are about to make a call: a connection, see CallPoint.

    `background_reader` is address and size of the function whose goroutines only look out for a client to go away.

    A point whose instruction is "jbe" or "b.ls" is passed twice where the stack had to grow.
    """

    path: str
    go_version: str
    main_module: str
    modules: Mapping[str, str]
    machine: Machine
    runtime: RuntimeLayout | None
    sdk: SdkLayout | None
    span_end: ProbePoint | None
    span_start: ProbePoint | None
    goroutine_made: ProbePoint | None
    calls: tuple[CallPoint, ...]
    reasons: tuple[Reason, ...]
    goroutine_exit: ProbePoint | None = None
    background_reader: tuple[int, int] | None = None

    @property
    def is_collector(self) -> bool:
        """Whether it is an OpenTelemetry Collector, whose own spans are about other people's spans."""
        return _COLLECTOR_MODULE in self.modules


def inspect(path: str | os.PathLike[str]) -> GoBinary | None:
    """Read the executable at `path`; None if it was not built by Go for 64-bit amd64 or arm64.

    Raises UnreadableBinary, and nothing else, if it cannot be read or its headers make no sense. Takes a
    few milliseconds for most binaries, and some 50 ms for one of 36 MB that has the SDK and all clients; a hostile one
    is given up after 1 GiB of reading.
    """
    image = ElfImage.open(os.fspath(path))
    if image is None:
        return None
    with image:
        info = read_build_info(image)
        if info is None:
            return None
        main_module, modules = _parse_modules(info.modules)
        runtime = runtime_layout(info.go_version)
        sdk = _find_sdk(modules, recorded=_MODULE.search(info.modules) is not None)
        points = Points()
        # Without the layout of the runtime nobody could read what a probe finds, without the SDK there is no span to
        # tie it to.
        if isinstance(runtime, RuntimeLayout) and (isinstance(sdk, SdkLayout) or sdk.code != ReasonCode.SDK_ABSENT):
            layout = sdk if isinstance(sdk, SdkLayout) else None
            build = Build(info.go_version, modules, profiled=_PROFILE.search(info.modules) is not None)
            points = find_points(image, build, runtime, layout)
    unknown = [found for found in (runtime, sdk) if isinstance(found, Reason)]
    return GoBinary(
        path=image.path,
        go_version=info.go_version.removeprefix("go"),
        main_module=main_module,
        modules=modules,
        machine=image.machine,
        runtime=runtime if isinstance(runtime, RuntimeLayout) else None,
        sdk=sdk if isinstance(sdk, SdkLayout) else None,
        span_end=points.span_end,
        span_start=points.span_start,
        goroutine_made=points.goroutine_made,
        goroutine_exit=points.goroutine_exit,
        background_reader=points.background_reader,
        calls=points.calls,
        reasons=(*unknown, *points.reasons),
    )


def _parse_modules(text: str) -> tuple[str, dict[str, str]]:
    """Path of the main module, and the modules kept. Lines: kind, path, version and sum, with tabs between;
    "=>" lines replace the module before them (runtime/debug.BuildInfo)."""
    main_module, last = "", ""
    modules: dict[str, str] = {}
    for line in text.splitlines():
        kind, path, version, *_ = (*line.split("\t"), "", "")
        if kind == "=>":
            if last in modules:
                modules[last] = version if path == last else f"=> {path} {version}".rstrip()
            continue
        if kind not in ("mod", "dep"):
            continue
        if kind == "mod":
            main_module = path
        if path in _MODULES_KEPT or path.startswith(_MODULE_FAMILIES_KEPT):
            modules[path] = version
        last = path
    return main_module, modules


def _find_sdk(modules: Mapping[str, str], *, recorded: bool) -> SdkLayout | Reason:
    version = modules.get(_SDK_MODULE)
    if version is not None and not version.startswith("=>"):
        return sdk_layout(version)
    if version is not None:
        return Reason(ReasonCode.SDK_REPLACED, f"the OpenTelemetry SDK is replaced ({version})")
    if recorded:
        return Reason(ReasonCode.SDK_ABSENT, "the OpenTelemetry SDK is not linked in")
    return Reason(ReasonCode.MODULES_ABSENT, "no modules were recorded when it was built, so no SDK version is known")
