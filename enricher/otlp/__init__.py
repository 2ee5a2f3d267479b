"""OTLP in and out: receivers, the bounded queue between, retry, exporters.

Bytes in, bytes out: nothing here knows what is in a span, but for the exporter that shows spans to people.
"""
