"""The command line: one file per command, arguments and printing only.

A command's module is imported when the command is run or asked for help, so that `pinfold --help`
and shell completion stay fast.
"""

from importlib import import_module
from typing import Any, Final

import click

from pinfold import __version__
from pinfold.cli.failures import run_reporting

COMMANDS: Final = {
    "up": "Start a whole cluster on this machine.",
    "status": "Show what is up, what is degraded and what to do about it.",
    "volume": "Create, list, resize and delete block volumes.",
    "user": "Create, list, disable and delete S3 users.",
    "key": "Create, list, disable, rotate and delete users' access keys.",
    "secret": "Show the root key; replace it, the admin token or the cluster secret.",
    "group": "Show row groups; force the members of one that has lost its quorum.",
    "ring": "Build and inspect placement rings; works without a cluster.",
    "device": "Format, inspect, check and repair devices.",
    "sim": "Simulate whole clusters under faults and judge what clients saw.",
    "node": "Stop, start and restart a process of this machine, if that is harmless now.",
}
"""Each has a module of its name here, with a click command of its name inside."""


class _LazyGroup(click.Group):
    """A group that imports a command's module only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"pinfold.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; errors end the process with a message and a stable exit status."""
        return run_reporting(lambda: super(_LazyGroup, self).main(*args, **kwargs))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 failed or refused, 2 wrong usage, 3 cluster unreachable.",
)
@click.version_option(__version__, prog_name="pinfold")
def main() -> None:
    """One storage cluster for objects (S3) and block volumes (NBD).

    Start with `pinfold up`; it prints commands to try.
    """
