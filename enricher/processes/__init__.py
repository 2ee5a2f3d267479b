"""Processes seen from outside, through /proc and sock_diag: identity, executable, cgroup, sockets.

What is in their memory or their binary is not here (`enricher.golang`), nor who is watched (`enricher.observer`).
"""
