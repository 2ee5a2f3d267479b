"""What the kernel said: the record types, generated from probes/events.h.

The log that carries them and the index that is asked about them are native (enricher._native). What evidence
means for a span is not decided here but in join and causes.
"""
