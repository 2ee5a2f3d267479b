"""Writes enricher/evidence/syscalls.py: the names of Linux's x86-64 system calls, from the kernel's own header.

    generate_syscalls.py [--check] [HEADER]     HEADER: asm/unistd_64.h of linux-libc-dev

A newer header only adds names, so the file is made by hand when a new call matters, not at every build;
--check says whether each name of the file is still what the header says.
"""

import re
import sys
from pathlib import Path

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
TARGET = Path(__file__).parent.parent / "enricher" / "evidence" / "syscalls.py"
HEAD = '''"""Names of system calls. Made by scripts/generate_syscalls.py from Linux's asm/unistd_64.h: do not edit."""

# fmt: off
X86_64 = {
'''
TAIL = '''}
# fmt: on


def syscall_name(number: int) -> str:
    """`write` for 1; `syscall_1000` for a number that this table does not know."""
    return X86_64.get(number) or f"syscall_{number}"
'''


def names(header: Path) -> dict[int, str]:
    """Number to name."""
    found = re.findall(r"^#define __NR_(\w+) (\d+)$", header.read_text(), re.MULTILINE)
    return {int(number): name for name, number in found}


def main() -> int:
    arguments = [argument for argument in sys.argv[1:] if argument != "--check"]
    current = names(Path(arguments[0]) if arguments else HEADER)
    if "--check" in sys.argv:
        known = {int(n): name for n, name in re.findall(r'^    (\d+): "(\w+)",$', TARGET.read_text(), re.MULTILINE)}
        wrong = {n: name for n, name in known.items() if current.get(n, name) != name}
        print(f"{len(known)} names, wrong: {wrong}" if wrong or not known else f"{len(known)} names agree")
        return 1 if wrong or not known else 0
    lines = "".join(f'    {number}: "{name}",\n' for number, name in sorted(current.items()))
    TARGET.write_text(HEAD + lines + TAIL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
