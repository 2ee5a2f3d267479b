"""The least a Python OTLP/gRPC forwarder can do: bytes in, the same bytes out, nothing looked at.

The yardstick of benchmarks/pipeline: `python -m benchmarks.pipeline.grpcio_forwarder LISTEN_PORT TO_PORT`. The sender
is answered when the backend has answered, with its answer.
"""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
THREADS = 16  # as many as the generator has requests in flight


def _same(message: bytes) -> bytes:
    return message


def forwarding(to_port: int) -> grpc.GenericRpcHandler:  # type: ignore[type-arg]  # generic in its stubs only
    """Serves one method with one function from bytes to bytes."""
    channel = grpc.insecure_channel(f"127.0.0.1:{to_port}", options=OPTIONS)
    forward = channel.unary_unary(f"/{SERVICE}/Export", _same, _same)

    def export(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            answer: bytes = forward(request)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details() or "")
            raise
        return answer

    return grpc.method_handlers_generic_handler(
        SERVICE, {"Export": grpc.unary_unary_rpc_method_handler(export, _same, _same)}
    )


def main() -> None:
    listen, to_port = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    server = grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS)
    server.add_generic_rpc_handlers((forwarding(int(to_port)),))
    server.add_insecure_port(f"127.0.0.1:{listen}")
    server.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(1).wait()


if __name__ == "__main__":
    main()
