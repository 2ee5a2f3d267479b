"""`enricher print-config`: defaults, file and environment put together, as a file that can be used again."""

import os
from pathlib import Path

import click
import yaml

from enricher.cli.config_option import config_option
from enricher.config.load import load
from enricher.config.tree import plain


@click.command("print-config")
@config_option
def command(config: Path | None) -> None:
    """Show the configuration in effect: defaults, file and environment together.

    Tokens and the values of headers are masked; they may be secrets.
    """
    tree = plain(load(config, os.environ), mask=True)
    click.echo(yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=100), nl=False)
