"""Real programs around the enricher: a Go service, a driver, a collector and receivers that keep what arrives.

Here: building, starting and ending them, and holding what arrived against what the service measured itself. What is
asked of the enricher is in the tests; how fast it is, in benchmarks/.
"""
