"""How long everything may take to end, in one place: the parts must have ended before the whole is killed.

The whole is well under the 30 s that Kubernetes gives, and the 90 s of systemd.
"""

from typing import Final

# Of a worker, one after the other, from the sender's end to the backend's.
RECEIVER_GRACE_S: Final = 2.0  # calls that are under way
POLICY_GRACE_S: Final = 3.0  # evidence that may still come; a tail and the patience are 1.3 s by default
RECORDER_GRACE_S: Final = 1.0
EXPORTER_GRACE_S: Final = 8.0  # what is in the queue

# Beyond the sum of these: threads being joined, on a machine with too much to do.
WORKER_STOP_S: Final = RECEIVER_GRACE_S + POLICY_GRACE_S + RECORDER_GRACE_S + EXPORTER_GRACE_S + 3.0
OBSERVER_STOP_S: Final = 5.0

# Within which a worker serves, of a configuration that was read again; else the one before stays.
START_S: Final = 20.0
