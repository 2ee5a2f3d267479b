"""`enricher`: finds the command and tells errors without a traceback.

Exit status: 0 done, 1 an error or a no, 2 the command line was wrong; a command may have more of its own.
"""

import importlib
import sys
from typing import Final

import click

from enricher.errors import EnricherError

# The modules are imported when called: `run` stays small, and every command starts quickly.
COMMANDS: Final = {
    "run": "Receive spans, add what the kernel knows, pass them on.",
    "record": "Run, and record what decides about spans into FILE.",
    "replay": "Decide a recording anew, and tell what is decided otherwise.",
    "explain": "Tell why the spans of a trace left as they did.",
    "sampling": "Show or change how a running enricher samples.",
    "validate": "Check a configuration and tell all that is wrong with it.",
    "doctor": "Tell what this host lacks, what that costs, and how to mend it.",
    "components": "List receivers, processors, exporters, match methods and causes.",
    "print-config": "Show the configuration in effect, secrets masked.",
    "version": "Show the version.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"enricher.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except EnricherError as error:
            for line in str(error).splitlines():
                click.echo(f"enricher: {line}", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Writes what the kernel knows about a span onto the span."""


if __name__ == "__main__":
    sys.exit(main(prog_name="enricher"))
