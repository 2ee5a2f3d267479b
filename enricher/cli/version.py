"""`enricher version`."""

import platform

import click


def installed_version() -> str:
    """Of the installed package; "unknown" where it runs from a source tree that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("enricher")
    except PackageNotFoundError:
        return "unknown"


@click.command("version")
def command() -> None:
    """Show the version, and those of Python and the kernel, for reports."""
    beside = f"Python {platform.python_version()}, Linux {platform.release()}"
    click.echo(f"enricher {installed_version()} ({beside})")
