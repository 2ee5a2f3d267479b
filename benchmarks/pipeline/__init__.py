"""What it costs to pass spans on: the enricher's pipeline beside a bare forwarder and a real collector.

`subjects` starts what is measured, `load` sends to it and counts what comes out. `flow`, `memory` and `scaling`
measure; `goals` says what is to be reached and whether it is.
"""
