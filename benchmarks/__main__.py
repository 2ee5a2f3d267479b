"""Runs the benchmarks, one after the other: `python -m benchmarks [NAME ...] [--quick]`."""

import argparse
import subprocess
import sys

NAMES = ("wire", "sending", "durable", "idle_memory", "pipeline", "service_overhead")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {' '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="one short round of each: do they run at all")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no such benchmark: {' '.join(sorted(unknown))}")
    failed = []
    for name in arguments.names or NAMES:
        print(f"\n== {name}", flush=True)
        # Each in a process of its own: what one leaves in memory must not be part of another's figures.
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if arguments.quick else [])]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {' '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
