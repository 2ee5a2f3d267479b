"""`--config FILE`, as several commands have it."""

from pathlib import Path

import click

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML file; without one the defaults and the environment hold.",
)
