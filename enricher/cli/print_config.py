"""`enricher print-config`: defaults, file and environment put together, as a file that can be used again."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
import yaml

from enricher.cli.config_option import config_option
from enricher.config.load import load
from enricher.config.model import Settings
from enricher.config.tree import plain

MASK: Final = "****"


@click.command("print-config")
@config_option
def command(config: Path | None) -> None:
    """Show the configuration in effect: defaults, file and environment together.

    The values of headers are masked; they may be secrets.
    """
    tree = plain(masked(load(config, os.environ)))
    click.echo(yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=100), nl=False)


def masked(settings: Settings) -> Settings:
    exporter = settings.exporters.otlp_grpc
    if exporter is None:
        return settings
    exporter = replace(exporter, headers=dict.fromkeys(exporter.headers, MASK))
    return replace(settings, exporters=replace(settings.exporters, otlp_grpc=exporter))
