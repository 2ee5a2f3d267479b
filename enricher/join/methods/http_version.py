"""Which version of HTTP a span says it was, under the names that semantic conventions have had for it."""

from collections.abc import Mapping

KEYS = ("network.protocol.version", "net.protocol.version", "http.flavor", "rpc.system", "rpc.system.name")
_RPC = ("rpc.system", "rpc.system.name")


def is_http1(attributes: Mapping[str, object]) -> bool:
    """Of a server span. Client spans of otelhttp say 1.1 whatever it was, as Go's requests do."""
    if any(key in attributes for key in _RPC):
        return False
    versions = {str(attributes[key]) for key in KEYS if key in attributes}
    return bool(versions) and versions <= {"1.0", "1.1"}
