"""A Go binary read from outside: build info, functions, structure layouts, the place to probe.

Only files are read here. What lives in a running process (goroutines, memory) does not belong here,
and neither does attaching a probe.
"""
