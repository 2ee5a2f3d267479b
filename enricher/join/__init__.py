"""Ties spans to what the kernel saw: match methods, the hold until evidence is complete, claims.

Pure: requests and an evidence index in, patches out. No I/O, no thread, no clock but the one handed in.
"""
