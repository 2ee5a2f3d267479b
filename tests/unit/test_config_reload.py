"""What has to be started anew for another configuration to hold: as little as will do."""

from pathlib import Path

import pytest

from enricher.config.model import Settings
from enricher.config.reload import Part, changed_parts, concerned
from enricher.config.tree import all_keys
from tests.unit.config_files import settings_of

BASE = (
    "exporters: {otlp_grpc: {endpoint: 'a:1'}, terminal: }\nprocessors: {%s}\nservice: {pipelines: {traces: {%s}}%s}\n"
)


def base(tmp_path: Path, processors: str = "", traces: str = "", service: str = "") -> Settings:
    traces = traces or "exporters: [terminal]"
    return settings_of(tmp_path, BASE % (processors, traces, f", {service}" if service else ""))


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    assert changed_parts(base(tmp_path), base(tmp_path)) == frozenset()


@pytest.mark.parametrize(
    ("processors", "parts"),
    [
        ("ebpf: {probes: {go_net: off}}", {"observer"}),
        ("ebpf: {select: {exclude: [/x]}}", {"observer"}),
        ("ebpf: {ring_size: 4096}", {"observer"}),
        ("ebpf: {blocked_threshold: 2ms}", {"observer", "pipeline"}),
        ("ebpf: {tail_window: 1ms}", {"pipeline"}),
        ("ebpf: {retention: 1m}", {"pipeline"}),
        ("ebpf: {stamp: all}", {"pipeline"}),
        ("ebpf: {stamp: all, ring_size: 4096}", {"observer", "pipeline"}),
    ],
)
def test_a_part_starts_anew_for_what_it_uses(tmp_path: Path, processors: str, parts: set[Part]) -> None:
    assert changed_parts(base(tmp_path), base(tmp_path, processors)) == parts


@pytest.mark.parametrize(
    ("service", "parts"),
    [
        ("workers: 2", {"workers"}),
        ("telemetry: {logs: {level: debug}}", {"live"}),
        ("telemetry: {logs: {level: debug}, metrics: {address: '127.0.0.1:1'}}", {"live", "pipeline"}),
        ("telemetry: {metrics: {otlp: {endpoint: 'm:1'}}}", {"pipeline"}),
        ("control: {}", {"pipeline"}),
        ("transport: native", set()),
        ("memory: {limit_mib: 300}", {"pipeline"}),
    ],
)
def test_of_the_service(tmp_path: Path, service: str, parts: set[Part]) -> None:
    assert changed_parts(base(tmp_path), base(tmp_path, service=service)) == parts
    assert changed_parts(base(tmp_path, service=service), base(tmp_path)) == parts


def test_sampling_is_changed_live_and_added_by_a_new_pipeline(tmp_path: Path) -> None:
    with_it = base(tmp_path, "sampling: {ratio: 0.5}")
    assert with_it.sampling is not None
    assert changed_parts(with_it, base(tmp_path, "sampling: {ratio: 0.1, slow: 5s}")) == {"live"}
    assert changed_parts(base(tmp_path, "sampling: "), base(tmp_path)) == {"pipeline"}


def test_the_observer_comes_and_goes_with_the_processor(tmp_path: Path) -> None:
    without = base(tmp_path, traces="exporters: [terminal], processors: []")
    assert changed_parts(base(tmp_path), without) == {"observer", "pipeline"}
    assert changed_parts(without, base(tmp_path)) == {"observer", "pipeline"}


def test_where_spans_come_in_concerns_both(tmp_path: Path) -> None:
    both = settings_of(tmp_path, "")
    grpc = settings_of(tmp_path, "receivers: {otlp: {protocols: {grpc: }}}")
    elsewhere = settings_of(tmp_path, "receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:1'}}}}")
    assert changed_parts(both, grpc) == {"observer", "pipeline"}
    assert changed_parts(grpc, elsewhere) == {"observer", "pipeline"}
    larger = settings_of(tmp_path, "receivers: {otlp: {protocols: {grpc: {max_recv_msg_size_mib: 8}}}}")
    assert changed_parts(grpc, larger) == {"pipeline"}


def test_a_header_or_another_exporter_concerns_the_pipeline(tmp_path: Path) -> None:
    one = settings_of(tmp_path, "exporters: {otlp_grpc: {headers: {a: b}}}")
    other = settings_of(tmp_path, "exporters: {otlp_grpc: {headers: {a: c}}}")
    none = settings_of(tmp_path, "exporters: {otlp_grpc: }")
    assert changed_parts(one, other) == changed_parts(one, none) == {"pipeline"}
    assert changed_parts(none, settings_of(tmp_path, "exporters: {debug: }")) == {"pipeline"}


def test_every_key_concerns_someone() -> None:
    for section, key in all_keys(Settings):
        assert concerned(f"{section}.{key}".lstrip("."))
    assert concerned("processors.ebpf.probes.go_sdk") == {"observer"}
    assert concerned("processors.ebpf.probes_of_another_kind") == {"pipeline"}
