"""What commands about users and about their keys share."""

from collections.abc import Callable
from functools import wraps
from typing import IO, Any

import click

from pinfold.cli.cluster import ClusterClient, echo


def secret_key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `secret_key`, out of a file: other users of the machine see its arguments."""

    @click.option(
        "--secret-key-file",
        type=click.File(),
        metavar="FILE",
        help="File with the chosen secret key, - for standard input; drawn when not given.",
    )
    @wraps(command)
    def with_secret(*args: Any, secret_key_file: IO[str] | None, **options: Any) -> Any:
        secret_key = None if secret_key_file is None else secret_key_file.read().strip()
        return command(*args, secret_key=secret_key, **options)

    return with_secret


def print_pair(made: dict[str, Any]) -> None:
    """An access key and its secret: the one time that it is shown."""
    click.echo(f"  access key  {made['access_key']}")
    click.echo(f"  secret key  {made['secret_key']}")


def set_active(client: ClusterClient, as_json: bool, path: str, name: str, *, active: bool) -> None:
    """Disable the user or key at an admin path, or allow it again."""
    changed = client.call("PATCH", path, {"active": active})
    echo(as_json, changed, lambda: click.echo(f"{name} is {changed['state']}"))
