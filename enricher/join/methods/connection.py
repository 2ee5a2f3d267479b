"""All that a span waited for was on connections that it used as a client.

Found together with what `span_end` finds: a probe where the client takes a connection for a call names goroutine and
descriptor, so that the waits of the connection's own goroutines belong to the span. A span that also waited on its own
goroutine is told as `span_end`.
"""

from enricher.join.evidence import SpanEvidence
from enricher.join.methods import span_end
from enricher.join.methods.method import Method

METHOD = Method(
    name="connection",
    summary="as span_end, where all that was blocked was a connection that the span used as a client",
    exact=True,
    needs=("go_sdk", "go_net"),
)


def name_of(method: Method, evidence: SpanEvidence) -> str:
    """The value of ebpf.match.method for evidence that this method found."""
    return METHOD.name if method is span_end.METHOD and evidence.via == "connection" else method.name
