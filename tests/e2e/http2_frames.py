"""HTTP/2 by hand (RFC 9113), as only somebody who means ill would write it."""

import socket
import struct
from collections.abc import Iterable
from typing import Final, Self

import hpack

from enricher.otlp.transport import EXPORT_METHOD

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EXPORT: Final = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", EXPORT_METHOD),
    (":authority", "x"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Line:
    """A connection that says what it is told to, and keeps no rules."""

    def __init__(self, port: int, *, timeout_s: float = 10) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.socket.sendall(PREFACE + frame(SETTINGS))
        self._encoder = hpack.Encoder()
        self._unread = b""
        while (found := self.read()) is not None and found[0] != SETTINGS:
            pass
        self.send(frame(SETTINGS, flags=ACK))  # only then do the windows hold that were told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def head(self, stream: int, headers: Iterable[tuple[str, str]] = EXPORT, flags: int = END_HEADERS) -> bytes:
        return frame(HEADERS, stream, self._encoder.encode(headers), flags)

    def frames_until_closed(self) -> list[tuple[int, int, bytes]]:
        """Kind, stream and payload of what came, once the other end has closed. Raises TimeoutError."""
        found = []
        while (next_one := self.read()) is not None:
            found.append(next_one)
        return found

    def read(self) -> tuple[int, int, bytes] | None:
        """The next frame; None: the other end has closed."""
        try:
            while len(self._unread) < 9 or len(self._unread) < 9 + self._length():
                more = self.socket.recv(65536)
                if not more:
                    return None
                self._unread += more
        except ConnectionError:
            return None
        end = 9 + self._length()
        kind, stream = self._unread[3], struct.unpack(">I", self._unread[5:9])[0]
        payload, self._unread = self._unread[9:end], self._unread[end:]
        return kind, stream, payload

    def _length(self) -> int:
        return int.from_bytes(self._unread[:3])
