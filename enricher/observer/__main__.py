"""`python -m enricher.observer --log-fd N --board-fd N`: the settings as JSON on standard input, and as descriptors the
evidence log, and the board to read.

Ends with 0 on SIGTERM, and with the statuses of `enricher.exits`.
"""

import argparse
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from enricher._native import LogWriter, Ring
from enricher.board import Board
from enricher.config.model import Ebpf, Settings
from enricher.config.values import split_endpoint
from enricher.exits import CANNOT_OBSERVE, CANNOT_START
from enricher.live import FollowedLevel
from enricher.observer import host
from enricher.observer.discovery import Discovery
from enricher.observer.header_ring import HeaderRing
from enricher.observer.headers import HeaderBlocks
from enricher.observer.inspection import Inspector
from enricher.observer.observer import TICK_NS, Observer
from enricher.observer.probe_set import Failed, NothingLoaded, Probe, ProbeSet, Status
from enricher.observer.senders import Senders
from enricher.telemetry.logs import Logger, configure, get_logger


def main() -> int:
    """Runs until SIGTERM; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m enricher.observer")
    parser.add_argument("--log-fd", type=int, required=True)
    parser.add_argument("--board-fd", type=int, required=True)
    arguments = parser.parse_args()
    for fd in (arguments.log_fd, arguments.board_fd):
        os.set_inheritable(fd, False)
    # Blocked from now on, and taken by sigtimedwait between two ticks. SIGINT and SIGHUP are the parent's business.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    settings = Settings.from_json(sys.stdin.read())
    configure("observer", settings.service.telemetry.logs.level)
    log = get_logger()
    try:
        return _run(settings, arguments.log_fd, FollowedLevel(Board(arguments.board_fd, writable=False)), log)
    except Exception:
        log.exception("the observer failed")
        return 1


def _run(settings: Settings, log_fd: int, level: FollowedLevel, log: Logger) -> int:
    if settings.ebpf is None:
        log.info("nothing to observe: the pipeline has no processor ebpf")
        return CANNOT_OBSERVE
    wanted = asdict(settings.ebpf.probes)
    cannot = CANNOT_START if "on" in wanted.values() else CANNOT_OBSERVE
    namespace = host.pid_namespace(str(Path("/proc/self/ns/pid").readlink()))
    if namespace.answer is host.Answer.NO:
        log.error("nothing can be observed", why=f"pid namespace is {namespace.detail}", fix=namespace.fix)
        return cannot
    try:
        probes = ProbeSet(
            wanted, blocked_threshold_ns=settings.ebpf.blocked_threshold_ns, ring_bytes=settings.ebpf.ring_size
        )
    except NothingLoaded as error:
        _tell_status(error.status, log)
        return cannot
    with probes:
        _tell_status(probes.status, log)
        if any(wanted[probe] == "on" and isinstance(found, Failed) for probe, found in probes.status.items()):
            return CANNOT_START
        if not probes.has(Probe.SYSCALLS):
            # A process that counts as watched while nothing looks for its waits would make "no waits" of "not known".
            log.error("nothing can be observed without the probe on system calls")
            return CANNOT_OBSERVE
        observe(probes, settings, log_fd, level, log)
    return 0


def observe(probes: ProbeSet, settings: Settings, log_fd: int, level: FollowedLevel, log: Logger) -> None:
    """Until SIGTERM."""
    ebpf = settings.ebpf or Ebpf()
    evidence = LogWriter(log_fd)
    discovery = Discovery(probes, Inspector(), ebpf.select, log, time.monotonic_ns)
    blocks = probes.header_blocks
    # Port 0: whichever is free, which only the pipeline knows.
    receivers = [
        split_endpoint(receiver.endpoint) for receiver in (settings.grpc, settings.http) if receiver and receiver.port
    ]
    observer = Observer(
        probes=probes,
        ring=Ring(probes.ring.fd, probes.ring.max_entries),
        evidence=evidence,
        discovery=discovery,
        senders=Senders(receivers) if receivers else None,
        headers=HeaderBlocks(HeaderRing(blocks.fd, blocks.max_entries)) if blocks else None,
        log=log,
        unknown_since_ns=evidence.last_heartbeat_ns,
    )
    _give_back_memory()
    due_ns = time.monotonic_ns()
    while True:
        busy = observer.tick()
        level.look()
        now_ns = time.monotonic_ns()
        due_ns = now_ns if busy else max(due_ns + TICK_NS, now_ns)
        if signal.sigtimedwait({signal.SIGTERM}, (due_ns - now_ns) / 1e9):
            break
    discovery.close()
    observer.tell_statistics()


def _tell_status(status: Mapping[Probe, Status], log: Logger) -> None:
    for probe, found in status.items():
        if isinstance(found, Failed):
            log.error("a probe is not to be had on this host", probe=probe.value, error=found.error)


def _give_back_memory() -> None:
    """What loading and starting needed is not needed again."""
    gc.collect()
    gc.freeze()
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    sys.exit(main())
