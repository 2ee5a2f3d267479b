"""Programs that send a known set of spans with the OTLP exporters of other SDKs, one folder or file a language.

Each is given a protocol (grpc, http/protobuf, http/json), a compression (none, gzip), and two URLs: to the subject its
spans go over that protocol, to the reference over gRPC, uncompressed, which is what both copies are compared by. It
makes 20 traces of five spans each: a server span with an attribute of every type and a link, an inner one with two
events and status OK, a client span with an exception and status ERROR, a producer and a consumer; there is text of
more than ASCII in each. When all are exported it prints one line of JSON, {"ids": [trace id + span id, …]}.
"""
