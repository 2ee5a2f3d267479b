"""A receiver in a process of its own, whose memory can be looked at: `python -m tests.e2e.receiver_program LIMITS`.

LIMITS is a JSON object, of fields of `Limits`. Prints its ports, then for every line that it reads the receiver's
statistics. What it has accepted it drops at once.
"""

import json
import sys
from threading import Thread

from enricher._native import Queue
from enricher.otlp.transport import Limits
from tests.e2e.receiving import new_queue, opened, outcomes, serving


def drop_all(queue: Queue) -> None:
    while not queue.finished:
        taken = queue.take_new(0.1, 1 << 18)
        queue.put(taken)
        queue.release(queue.take(1 << 30, 0))


def main() -> None:
    limits = Limits(**json.loads(sys.argv[1]))
    queue = new_queue(limits)
    at_grpc, grpc_port = opened("grpc", max_message_bytes=limits.max_message_bytes)
    at_http, http_port = opened("http", max_message_bytes=limits.max_message_bytes)
    dropping = Thread(target=drop_all, args=(queue,), daemon=True)
    dropping.start()
    with serving(at_grpc, at_http, queue=queue, limits=limits) as server:
        print(json.dumps({"grpc": grpc_port, "http": http_port}), flush=True)
        for _ in sys.stdin:
            print(json.dumps(server.statistics() | outcomes(queue)), flush=True)
    queue.close()


if __name__ == "__main__":
    main()
