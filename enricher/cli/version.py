"""`enricher version`."""

import platform

import click

from enricher.version import installed_version


@click.command("version")
def command() -> None:
    """Show the version, and those of Python and the kernel, for reports."""
    beside = f"Python {platform.python_version()}, Linux {platform.release()}"
    click.echo(f"enricher {installed_version()} ({beside})")
