"""Which version of this program it is."""

from functools import cache


@cache
def installed_version() -> str:
    """Of the installed package; "unknown" where it runs from a source tree that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("enricher")
    except PackageNotFoundError:
        return "unknown"
