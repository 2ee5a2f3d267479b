"""A wheel is all that a host needs: no compiler, no source, only libbpf.so.1 and a kernel with BTF."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROBES = tuple((ROOT / "probes").glob("*.bpf.c"))


def test_an_installed_wheel_loads_its_probes_without_a_compiler(tmp_path: Path) -> None:
    maturin = Path(sys.executable).parent / "maturin"
    compiled = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "build" / "target")}  # as the Makefile has it
    subprocess.run([maturin, "build", "--release", "--quiet", "--out", tmp_path], cwd=ROOT, env=compiled, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    (installed / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "enricher.cli.main", "doctor", "--json"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": str(installed / "empty"), "LANG": os.environ.get("LANG", "C")},
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {
        check["name"]: check["answer"]
        for check in json.loads(done.stdout)["needs"]
        if check["name"].startswith("load ")
    }
    assert loaded == {f"load {path.name.removesuffix('.bpf.c')}": "yes" for path in PROBES}, done.stdout + done.stderr
