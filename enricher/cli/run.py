"""`enricher run`: the whole product in the foreground."""

import os
import sys
from pathlib import Path

import click

from enricher.cli.config_option import config_option
from enricher.config.load import load


@click.command("run")
@config_option
def command(config: Path | None) -> None:
    """Receive spans, add what the kernel knows, pass them on.

    Runs until SIGTERM or Ctrl-C; what was received is delivered before it ends. SIGHUP has the configuration read
    again: one that is wrong changes nothing.
    """
    settings = load(config, os.environ)
    from enricher.supervisor import supervise  # not where the configuration is refused

    sys.exit(supervise(settings, read_again=lambda: load(config, os.environ)))
