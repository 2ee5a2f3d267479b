"""The ways to a backend: one file a kind of exporter, each a `Sender`. When something is sent, sent again, or given up
is decided in one place for all of them, enricher/otlp/delivery.py.
"""
