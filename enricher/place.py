"""What the supervisor has given a worker: its number, its slot on the board, and sockets to listen on."""

import argparse
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self, get_args

from enricher.board import Board
from enricher.listening import Kind
from enricher.workers import SLOTS, Member, Roster, slot_of


@dataclass(slots=True)
class Place:
    board: Board
    worker: int = 0
    slot: int = slot_of(0, 0)
    share_ports: bool = False  # the receiver binds for itself, beside other workers
    listening: dict[Kind, list[socket.socket]] = field(default_factory=dict)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--board-fd", type=int, required=True)
        parser.add_argument("--worker", type=int, default=0)
        parser.add_argument("--slot", type=int, default=slot_of(0, 0))
        parser.add_argument("--share-ports", action="store_true")
        parser.add_argument("--listen", action="append", default=[], metavar="KIND=FD", help=f"of {get_args(Kind)}")

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Self:
        """Of what `add_arguments` has had parsed. Raises OSError where a descriptor is none."""
        os.set_inheritable(arguments.board_fd, False)
        listening: dict[Kind, list[socket.socket]] = {}
        for given in arguments.listen:
            kind, _, fd = given.partition("=")
            opened = socket.socket(fileno=int(fd))
            opened.set_inheritable(False)
            listening.setdefault(kind, []).append(opened)
        board = Board(arguments.board_fd)
        return cls(board, arguments.worker, arguments.slot, arguments.share_ports, listening)

    @classmethod
    def alone(cls, listening: dict[Kind, Sequence[socket.socket]] | None = None) -> Self:
        """Of a pipeline that nobody supervises: it stands on a board of its own."""
        board, _ = Board.make(SLOTS)
        place = cls(board, listening={kind: list(sockets) for kind, sockets in (listening or {}).items()})
        Roster((Member(place.worker, place.slot, os.getpid(), time.monotonic_ns()),)).write(board)
        return place

    def addresses(self) -> dict[str, list[str]]:
        """Of the sockets, by kind; for people."""
        return {kind: [_address(opened) for opened in sockets] for kind, sockets in self.listening.items()}


def _address(opened: socket.socket) -> str:
    where = opened.getsockname()
    if opened.family == socket.AF_UNIX:
        return str(where)
    host, port = where[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
