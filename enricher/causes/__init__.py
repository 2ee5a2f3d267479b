"""What can have made a span slow: one file a cause. A module here with a `CAUSE` is registered by being there.

Rules are pure: a span's evidence in, attributes out.
"""

import importlib
import pkgutil
from functools import cache

from enricher.causes.cause import Cause


@cache
def registry() -> tuple[Cause, ...]:
    """Every cause, by name."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        cause = getattr(importlib.import_module(f"{__name__}.{module.name}"), "CAUSE", None)
        if isinstance(cause, Cause):
            found.append(cause)
    return tuple(sorted(found, key=lambda cause: cause.name))
