"""Runs the clients of tests/e2e/clients, each the OTLP exporters of another SDK; what they need is built on demand."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tests.e2e.testbed import build
from tests.e2e.testbed.spans import KeptSpan

Language = Literal["go", "python", "javascript", "java"]
OtlpProtocol = Literal["grpc", "http/protobuf", "http/json"]

CLIENTS = build.ROOT / "tests/e2e/clients"
BUILT = build.ROOT / "build/clients"
CLIENT_DEADLINE_S = 60
SPANS = 100  # that each client makes


@dataclass(frozen=True, slots=True)
class Sent:
    """What a client says that it has exported."""

    ids: list[str]

    def among(self, kept: list[KeptSpan]) -> list[KeptSpan]:
        """Those of its traces."""
        traces = {span_id[:32] for span_id in self.ids}
        return [span for span in kept if span.id[:32] in traces]


def run(
    language: Language, protocol: OtlpProtocol, compression: Literal["none", "gzip"], subject: int, reference: int
) -> Sent:
    """Sends the client's spans to both ports. Raises AssertionError if it says that it could not."""
    ends = [f"http://127.0.0.1:{port}" for port in (subject, reference)]
    result = subprocess.run(
        [*_command(language), protocol, compression, *ends],
        check=False,
        capture_output=True,
        text=True,
        timeout=CLIENT_DEADLINE_S,
        env=os.environ | {"NODE_NO_WARNINGS": "1"},
    )
    assert result.returncode == 0, f"{language}: status {result.returncode}\n{result.stderr[-4000:]}"
    return Sent(json.loads(result.stdout)["ids"])


def prepare() -> None:
    """Builds all of them, so that it is not counted as some test's own time."""
    build.programs()
    _javascript()
    _java()


def _command(language: Language) -> list[str]:
    match language:
        case "go":
            return [str(build.programs() / "sdkclient")]
        case "python":
            return [sys.executable, str(CLIENTS / "client.py")]
        case "javascript":
            return ["node", str(_javascript() / "client.js")]
        case "java":
            return ["java", "-cp", f"{_java()}:{BUILT}/java/jars/*", "-XX:TieredStopAtLevel=1", "Client"]


@cache
def _javascript() -> Path:
    """Folder with the client and its modules beside it, as Node looks for them there."""
    folder = BUILT / "js"
    folder.mkdir(parents=True, exist_ok=True)
    files = [CLIENTS / "js" / name for name in ("package.json", "package-lock.json", "client.js")]
    if _is_new(folder, files):
        for file in files:
            shutil.copy(file, folder)
        # No script of any package is run.
        _do(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], folder)
        _is_done(folder, files)
    return folder


@cache
def _java() -> Path:
    """Folder with the client's class; the jars that it needs are in ../jars."""
    classes, jars = BUILT / "java/classes", BUILT / "java/jars"
    classes.mkdir(parents=True, exist_ok=True)
    pom, source = CLIENTS / "java/pom.xml", CLIENTS / "java/Client.java"
    if _is_new(jars, [pom]):
        cached = f"-Dmaven.repo.local={build.ROOT}/build/maven"
        copied = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        _do(["mvn", "--batch-mode", "--quiet", "--file", str(pom), cached, *copied], CLIENTS)
        _is_done(jars, [pom])
    if _is_new(classes, [pom, source]):
        _do(
            ["javac", "--release", "17", "-encoding", "UTF-8", "-cp", f"{jars}/*", "-d", str(classes), str(source)],
            jars,
        )
        _is_done(classes, [pom, source])
    return classes


def _digest(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _is_new(built: Path, sources: list[Path]) -> bool:
    """Whether what was built there is of other sources; if so, it is thrown away."""
    stamp = built / ".sources"
    if stamp.exists() and stamp.read_text() == _digest(sources):
        return False
    for old in built.iterdir() if built.exists() else ():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    return True


def _is_done(built: Path, sources: list[Path]) -> None:
    (built / ".sources").write_text(_digest(sources))


def _do(command: list[str], directory: Path) -> None:
    result = subprocess.run(
        command, check=False, cwd=directory, capture_output=True, text=True, timeout=build.BUILD_DEADLINE_S
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
