"""All that a probe has to know about a Go executable, read from its file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from enricher.golang.buildinfo import read_build_info
from enricher.golang.elf import ElfImage, Machine, UnreadableBinary
from enricher.golang.layouts import RuntimeLayout, SdkLayout, go_minor, runtime_layout, sdk_layout
from enricher.golang.pclntab import find_function_table
from enricher.golang.probe_point import REGISTER_ARGUMENTS_SINCE_MINOR, ProbePoint, probe_point
from enricher.golang.reason import Reason, ReasonCode

__all__ = ["GoBinary", "Reason", "ReasonCode", "UnreadableBinary", "inspect"]

SPAN_END_FUNCTION = "go.opentelemetry.io/otel/sdk/trace.(*recordingSpan).End"

_SDK_MODULE = "go.opentelemetry.io/otel/sdk"
_COLLECTOR_MODULE = "go.opentelemetry.io/collector/service"
# A big program has hundreds of modules, and one of these records is kept for each program.
_MODULES_KEPT = ("go.opentelemetry.io/otel", "go.opentelemetry.io/contrib/instrumentation/")


@dataclass(frozen=True, slots=True)
class GoBinary:
    """A Go executable. What is None has its reason among `reasons`.

    `go_version` is "1.26.8", and the toolchain's whole name where it is no release. `modules` holds path and
    version of the OpenTelemetry modules that are linked in; where one was replaced, the version is
    "=> " and the replacement. `span_end` is where the SDK ends a span that is recorded: there the span is in
    the register of the first argument (amd64 RAX, arm64 X0) and g in its own (R14, X28).
    """

    path: str
    go_version: str
    main_module: str
    modules: Mapping[str, str]
    machine: Machine
    runtime: RuntimeLayout | None
    sdk: SdkLayout | None
    span_end: ProbePoint | None
    reasons: tuple[Reason, ...]

    @property
    def is_collector(self) -> bool:
        """Whether it is an OpenTelemetry Collector, whose own spans are about other people's spans."""
        return _COLLECTOR_MODULE in self.modules


def inspect(path: str | os.PathLike[str]) -> GoBinary | None:
    """Read the executable at `path`; None if it was not built by Go for 64-bit amd64 or arm64.

    Raises UnreadableBinary, and nothing else, if it cannot be read or its headers make no sense. Takes some
    milliseconds for most binaries, and some 20 ms for one of 50 MB; a hostile one is given up after 1 GiB of
    reading.
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
        sdk = _find_sdk(main_module, modules)
        span_end: ProbePoint | Reason | None = None
        # Without both layouts nobody could read what the probe finds.
        if isinstance(runtime, RuntimeLayout) and isinstance(sdk, SdkLayout):
            span_end = _find_span_end(image, info.go_version, runtime)
    found = (runtime, sdk, span_end)
    return GoBinary(
        path=image.path,
        go_version=info.go_version.removeprefix("go"),
        main_module=main_module,
        modules=modules,
        machine=image.machine,
        runtime=runtime if isinstance(runtime, RuntimeLayout) else None,
        sdk=sdk if isinstance(sdk, SdkLayout) else None,
        span_end=span_end if isinstance(span_end, ProbePoint) else None,
        reasons=tuple(reason for reason in found if isinstance(reason, Reason)),
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
        if path == _COLLECTOR_MODULE or path.startswith(_MODULES_KEPT):
            modules[path] = version
        last = path
    return main_module, modules


def _find_sdk(main_module: str, modules: Mapping[str, str]) -> SdkLayout | Reason:
    version = modules.get(_SDK_MODULE)
    if version is not None and not version.startswith("=>"):
        return sdk_layout(version)
    if version is not None:
        return Reason(ReasonCode.SDK_REPLACED, f"the OpenTelemetry SDK is replaced ({version})")
    if main_module:
        return Reason(ReasonCode.SDK_ABSENT, "the OpenTelemetry SDK is not linked in")
    return Reason(ReasonCode.MODULES_ABSENT, "no modules were recorded when it was built, so no SDK version is known")


def _find_span_end(image: ElfImage, go_version: str, runtime: RuntimeLayout) -> ProbePoint | Reason:
    minor = go_minor(go_version)
    if minor is None or minor < REGISTER_ARGUMENTS_SINCE_MINOR[image.machine]:
        sentence = f"{go_version} does not pass arguments in registers on {image.machine}"
        return Reason(ReasonCode.PROBE_POINT_UNKNOWN, sentence)
    try:
        table = find_function_table(image)
        if table is None:
            return Reason(ReasonCode.FUNCTIONS_UNREADABLE, "it has no function table of a known layout")
        for function in table.functions(SPAN_END_FUNCTION):
            if function.func_id == runtime.wrapper_func_id:
                continue
            point = probe_point(image, function)
            if point is None:
                sentence = f"{function.name} does not begin with a stack check of a known form"
                return Reason(ReasonCode.PROBE_POINT_UNKNOWN, sentence)
            return point
    except UnreadableBinary as error:
        # Its processes can still be watched, by their system calls.
        return Reason(ReasonCode.FUNCTIONS_UNREADABLE, f"its function table cannot be read: {error.problem}")
    return Reason(ReasonCode.FUNCTION_ABSENT, f"{SPAN_END_FUNCTION} is not linked in")
