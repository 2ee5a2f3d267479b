"""The privileged process: finds the processes to watch, loads the probes, moves events into the evidence log.

What it cannot do is speak to the network or look at a span: that is the pipeline's, which in turn cannot do this.
"""
