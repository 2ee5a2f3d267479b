"""Exit statuses by which the two processes tell the supervisor what to do; numbers as in sysexits.h."""

from typing import Final

CANNOT_START: Final = 70  # not as configured: a port that is taken, a probe that is `on` and cannot be
CANNOT_OBSERVE: Final = 78  # nothing can be observed on this host: not an error, and no use in trying again
