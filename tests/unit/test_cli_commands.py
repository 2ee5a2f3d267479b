"""The commands: what they print, where to, and the exit status."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from enricher.cli import main as cli
from enricher.config.load import load
from enricher.config.model import Settings

ROOT = Path(__file__).parents[2]
BAD = "processors:\n  ebpf:\n    tail_windw: 1s\n    retention: 5\n"


@pytest.fixture(autouse=True)
def _no_backend_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_EXPORTER_OTLP_")]:
        monkeypatch.delenv(name)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, prog_name="enricher")


def run_process(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enricher.cli.main", *arguments],
        cwd=ROOT,
        env=dict(os.environ) | (environ or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def config_file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: enricher {name} ")
    assert cli.COMMANDS[name] in " ".join(run("--help").stdout.split())


def test_help_fits_80_columns() -> None:
    for arguments in [("--help",), *((name, "--help") for name in cli.COMMANDS)]:
        assert all(len(line) <= 80 for line in run(*arguments).stdout.splitlines())


def test_a_wrong_command_line_is_status_2() -> None:
    for arguments in [("nope",), ("validate", "--confg", "x"), ("run", "surplus")]:
        result = run_process(*arguments)
        assert result.returncode == 2
        assert result.stdout == ""
        assert result.stderr.startswith("Usage: enricher")


class TestValidate:
    def test_what_is_right_is_ok(self, tmp_path: Path) -> None:
        result = run_process("validate", "--config", config_file(tmp_path, "processors: {ebpf: {stamp: all}}\n"))
        assert (result.returncode, result.stdout, result.stderr) == (0, "OK\n", "")

    def test_what_is_wrong_is_told_on_stderr_line_by_line(self, tmp_path: Path) -> None:
        file = config_file(tmp_path, BAD)
        result = run_process("validate", "--config", file)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.splitlines() == [
            f"enricher: {file}:3: processors.ebpf.tail_windw: unknown key, did you mean tail_window?",
            f"enricher: {file}:4: processors.ebpf.retention: '5' has no unit; write 5ms or 5s",
        ]

    def test_the_environment_is_part_of_it(self) -> None:
        result = run_process("validate", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1/x"})
        assert result.returncode == 1
        assert result.stderr.startswith("enricher: OTEL_EXPORTER_OTLP_ENDPOINT: exporters.otlp_grpc.endpoint: /x is")

    def test_a_missing_file_is_no_traceback(self) -> None:
        result = run_process("validate", "--config", "/nowhere/config.yaml")
        assert result.returncode == 1
        assert result.stderr == "enricher: /nowhere/config.yaml: cannot be read: No such file or directory\n"


class TestPrintConfig:
    def test_what_is_printed_is_a_file_that_means_the_same(self, tmp_path: Path) -> None:
        text = "processors: {ebpf: {tail_window: 1m30s, retention: 5m, probes: {syscalls: on, go_sdk: off}}}\n"
        text = text.replace("1m30s", "1500us")
        file = config_file(tmp_path, text)
        result = run("print-config", "--config", file)
        assert result.exit_code == 0
        again = tmp_path / "again.yaml"
        again.write_text(result.stdout)
        assert load(again, {}) == load(Path(file), {})
        assert yaml.safe_load(result.stdout)["processors"]["ebpf"]["tail_window"] == "1.5ms"

    def test_secrets_are_masked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://backend:4317")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cr3t")
        text = "receivers: {otlp: {protocols: {grpc: {auth: {bearer_token: s3cr3t}}}}}\n"
        result = run("print-config", "--config", config_file(tmp_path, text))
        assert "s3cr3t" not in result.stdout
        tree = yaml.safe_load(result.stdout)
        assert tree["exporters"]["otlp_grpc"]["headers"] == {"api-key": "****"}
        assert tree["exporters"]["otlp_grpc"]["endpoint"] == "http://backend:4317"
        assert tree["receivers"]["otlp"]["protocols"]["grpc"]["auth"]["bearer_token"] == "****"


def test_version_names_the_product_python_and_kernel() -> None:
    result = run("version")
    assert result.exit_code == 0
    assert result.stdout.startswith("enricher ")
    assert f"Python {sys.version.split()[0]}, Linux {os.uname().release}" in result.stdout


def test_components_tells_every_declared_attribute_and_method() -> None:
    from enricher import causes
    from enricher.join import methods

    result = run("components")
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    for name in ("otlp", "ebpf", "sampling", "otlp_grpc", "otlp_http", "debug", "file", "terminal"):
        assert f" {name} " in told
    assert causes.registry()
    for cause in causes.registry():
        assert f"{cause.name} {cause.summary}" in told
        for attribute in cause.attributes:
            assert f"{attribute.name} ({attribute.type}" in told
            assert attribute.meaning in told
    assert next(iter(methods.registry())).name == "span_end", "the best comes first"
    for method in methods.registry():
        assert f"{method.name} {'exact' if method.exact else 'not exact'}: {method.summary}" in told
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


class TestRun:
    def test_it_hands_the_settings_to_the_supervisor_and_ends_with_its_status(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handed: list[Settings] = []

        def supervise(settings: Settings, read_again: Callable[[], Settings]) -> int:
            handed.append(settings)
            config_file(tmp_path, "processors: {ebpf: {stamp: evidence}}\n")
            handed.append(read_again())
            return 3

        monkeypatch.setattr("enricher.supervisor.supervise", supervise)
        file = config_file(tmp_path, "processors: {ebpf: {stamp: all}}\n")
        assert run("run", "--config", file).exit_code == 3
        assert [settings.processors.ebpf.stamp for settings in handed] == ["all", "evidence"]
        assert handed[1] == load(Path(file), {})

    def test_a_bad_configuration_starts_nothing(self, tmp_path: Path) -> None:
        result = run_process("run", "--config", config_file(tmp_path, BAD))
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 2

    def test_the_resident_parent_imports_nothing_heavy(self) -> None:
        code = (
            "import sys, enricher.cli.main, enricher.cli.run, enricher.supervisor\n"
            "from enricher.config.load import load\n"
            "load(None, {})\n"
            "print(*sys.modules)"
        )
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        loaded = set(result.stdout.split())
        heavy = {"asyncio", "capstone", "elftools", "google.protobuf", "grpc", "pyroute2", "rich"}
        assert loaded & heavy == set()
        assert "enricher.supervisor" in loaded
