"""`pinfold key`: access keys of S3 users."""

from urllib.parse import quote

import click

from pinfold.cli.cluster import ClusterClient, cluster_command, echo
from pinfold.cli.credentials import print_pair, secret_key_options, set_active
from pinfold.cli.sizes import moment
from pinfold.cli.tables import print_table


@click.group(epilog="Example: pinfold key create alice")
def key() -> None:
    """Access keys of S3 users. What is changed here holds at every gateway within 5 seconds."""


@key.command(epilog="Example: pinfold key create alice")
@click.argument("user_id", metavar="USER")
@click.option("--access-key", help="Chosen access key; drawn when not given.")
@secret_key_options
@cluster_command
def create(
    client: ClusterClient,
    as_json: bool,
    user_id: str,
    access_key: str | None,
    secret_key: str | None,
) -> None:
    """Give USER one more key pair. The secret is shown this once."""
    body = {"access_key": access_key, "secret_key": secret_key}
    made = client.call("POST", f"/v1/users/{quote(user_id, safe='')}/keys", body)
    echo(as_json, made, lambda: print_pair(made))


@key.command("list", epilog="Example: pinfold key list alice")
@click.argument("user_id", metavar="USER")
@cluster_command
def list_(client: ClusterClient, as_json: bool, user_id: str) -> None:
    """List the access keys of USER (never the secrets)."""
    keys = client.get(f"/v1/users/{quote(user_id, safe='')}/keys")["keys"]
    rows = [[one["access_key"], one["state"], moment(one["created_ms"])] for one in keys]
    echo(as_json, keys, lambda: print_table("keys", ["access key", "state", "created"], rows))


@key.command(epilog="Example: pinfold key disable AKIDALICE")
@click.argument("access_key", metavar="KEY")
@cluster_command
def disable(client: ClusterClient, as_json: bool, access_key: str) -> None:
    """Refuse what KEY signs; `enable` takes it back."""
    set_active(client, as_json, _path(access_key), access_key, active=False)


@key.command(epilog="Example: pinfold key enable AKIDALICE")
@click.argument("access_key", metavar="KEY")
@cluster_command
def enable(client: ClusterClient, as_json: bool, access_key: str) -> None:
    """Allow a disabled KEY again."""
    set_active(client, as_json, _path(access_key), access_key, active=True)


@key.command(epilog="Example: pinfold key rotate AKIDALICE")
@click.argument("access_key", metavar="KEY")
@cluster_command
def rotate(client: ClusterClient, as_json: bool, access_key: str) -> None:
    """Make a fresh pair for KEY's user and end KEY. For an overlap, create one and delete later."""
    made = client.call("POST", f"{_path(access_key)}/rotate", {})
    echo(as_json, made, lambda: print_pair(made))


@key.command(epilog="Example: pinfold key delete AKIDALICE")
@click.argument("access_key", metavar="KEY")
@cluster_command
def delete(client: ClusterClient, as_json: bool, access_key: str) -> None:
    """End KEY for ever: no user gets one of this name again."""
    client.call("DELETE", _path(access_key))
    echo(as_json, {"deleted": access_key}, lambda: click.echo(f"deleted {access_key}"))


def _path(access_key: str) -> str:
    return f"/v1/keys/{quote(access_key, safe='')}"
