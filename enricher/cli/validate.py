"""`enricher validate`: everything that is wrong with a configuration, before it is used."""

import os
from pathlib import Path

import click

from enricher.cli.config_option import config_option
from enricher.config.load import load


@click.command("validate")
@config_option
def command(config: Path | None) -> None:
    """Check a configuration and tell all that is wrong with it.

    Looks at the file and the environment alone: `enricher doctor` looks at this host.
    """
    load(config, os.environ)
    click.echo("OK")
