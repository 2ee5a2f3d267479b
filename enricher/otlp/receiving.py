"""From what is configured to what receives: on the native transport, or gRPC on grpcio."""

from collections.abc import Iterator, Mapping, Sequence
from socket import socket
from typing import Final

from enricher._native import Queue
from enricher.config.model import Settings
from enricher.listening import Kind
from enricher.otlp.native_receiver import Answer, Listening, NativeReceiver
from enricher.otlp.transport import Limits, Receiver, ServingStatus

# Of pages and control calls: those who ask are few.
MAX_ANSWERED_CONNECTIONS: Final = 256


def receivers(
    settings: Settings,
    queue: Queue,
    health: ServingStatus,
    sockets: Mapping[Kind, Sequence[socket]],
    answers: Mapping[Kind, Answer],
    *,
    share_ports: bool,
) -> list[Receiver]:
    """Of spans, pages and control calls. `sockets` listen already, and are the receivers' from now on; those of grpcio
    it makes by itself, with `share_ports` beside other workers. Raises UnfitListenerError."""
    limits = Limits(
        max_message_bytes=settings.max_recv_bytes,
        # So that the largest there may be comes through, with all that reading it takes.
        max_bytes_under_way=max(Limits().max_bytes_under_way, 4 * settings.max_recv_bytes),
        max_concurrent_streams=settings.grpc.max_concurrent_streams
        if settings.grpc
        else Limits().max_concurrent_streams,
    )
    if settings.service.transport == "native":
        listening = [*_spans(settings, sockets), *_answered(settings, sockets, answers)]
        return [NativeReceiver(queue, listening, limits, health)]
    from enricher.otlp.grpcio_receiver import GrpcioReceiver

    assert settings.grpc is not None, "reading has made sure"
    return [
        GrpcioReceiver(settings.grpc.endpoint, queue, limits, health, share_port=share_ports),
        NativeReceiver(None, list(_answered(settings, sockets, answers)), limits, health),
    ]


def _spans(settings: Settings, sockets: Mapping[Kind, Sequence[socket]]) -> Iterator[Listening]:
    if grpc := settings.grpc:
        yield Listening(
            kind="grpc",
            sockets=sockets.get("grpc", ()),
            max_message_bytes=grpc.max_recv_bytes,
            max_connections=grpc.max_connections,
            tls=grpc.tls,
            auth=grpc.auth,
        )
    if http := settings.http:
        yield Listening(
            kind="http",
            sockets=sockets.get("http", ()),
            max_message_bytes=http.max_recv_bytes,
            max_connections=http.max_connections,
            tls=http.tls,
            auth=http.auth,
            traces_path=http.traces_url_path,
            cors=http.cors,
        )


def _answered(
    settings: Settings, sockets: Mapping[Kind, Sequence[socket]], answers: Mapping[Kind, Answer]
) -> Iterator[Listening]:
    for kind, answer in answers.items():
        if kind in sockets:
            auth = settings.service.control.auth if kind == "control" and settings.service.control else None
            yield Listening(
                kind=kind, sockets=sockets[kind], max_connections=MAX_ANSWERED_CONNECTIONS, auth=auth, answer=answer
            )
