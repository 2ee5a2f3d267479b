"""Writes enricher/control/v1/control_pb2.py and its types from proto/enricher/control/v1/control.proto.

    python scripts/generate_proto.py            writes both files
    python scripts/generate_proto.py --check    writes nothing; status 1 if a file would change

Needs grpcio-tools, which brings protoc. What it makes runs with the protobuf of the same version or a newer one: a
newer grpcio-tools in constraints.txt may need a newer one in pyproject.toml.
"""

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "enricher/control/v1/control.proto"
MADE = ("enricher/control/v1/control_pb2.py", "enricher/control/v1/control_pb2.pyi")


def generate(directory: Path) -> None:
    """Into `directory`, as the packages are nested."""
    included = Path(protoc.__file__).parent / "_proto"  # google/protobuf/*.proto
    status = protoc.main(
        [
            "protoc",
            f"-I{ROOT / 'proto'}",
            f"-I{included}",
            f"--python_out={directory}",
            f"--pyi_out={directory}",
            SOURCE,
        ]
    )
    if status:
        raise SystemExit(f"protoc ended with status {status}")


def main() -> int:
    if "--check" not in sys.argv:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as made:
        generate(Path(made))
        differing = [name for name in MADE if (Path(made) / name).read_bytes() != (ROOT / name).read_bytes()]
    for name in differing:
        print(f"{name} is not what its .proto makes: run `make generate`")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
