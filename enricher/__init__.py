"""enricher: writes what the kernel knows about a span onto the span."""
