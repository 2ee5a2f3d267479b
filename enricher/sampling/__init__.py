"""Early sampling: which spans are kept, how many each of them stands for, and what is counted of it.

What is done for each span is in native/src/sampling.rs; what is changed while running, in `enricher.control`.
"""
