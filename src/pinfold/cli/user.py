"""`pinfold user`: S3 users and their keys."""

from typing import Any
from urllib.parse import quote

import click

from pinfold.cli.cluster import ClusterClient, cluster_command, echo
from pinfold.cli.credentials import print_pair, secret_key_options, set_active
from pinfold.cli.tables import print_table


@click.group(epilog="Example: pinfold user create alice --display-name 'Alice A.'")
def user() -> None:
    """S3 users. `pinfold key` has more of their access keys."""


@user.command(epilog="Example: pinfold user create alice --secret-key-file alice.secret")
@click.argument("name", required=False)
@click.option("--id", "user_id", help="The same as NAME; the canonical owner id in S3 answers.")
@click.option("--display-name", default="", help="Shown in listings; the id when not given.")
@click.option("--email", default="", help="Kept with the user.")
@click.option("--access-key", help="Chosen access key; drawn when not given.")
@secret_key_options
@cluster_command
def create(
    client: ClusterClient,
    as_json: bool,
    name: str | None,
    user_id: str | None,
    display_name: str,
    email: str,
    access_key: str | None,
    secret_key: str | None,
) -> None:
    """Create the user NAME with one key pair. The secret is shown this once."""
    if (name is None) == (user_id is None):
        raise click.UsageError("give the user's id once: `pinfold user create alice`")
    body = {"id": name or user_id, "display_name": display_name, "email": email}
    keys = {"access_key": access_key, "secret_key": secret_key}
    made = client.call("POST", "/v1/users", {**body, **keys})
    echo(as_json, made, lambda: _print_new(made))


@user.command("list", epilog="Example: pinfold user list --json")
@cluster_command
def list_(client: ClusterClient, as_json: bool) -> None:
    """List users and their access keys (never the secrets)."""
    users = client.get("/v1/users")["users"]
    rows = [
        [u["id"], u["state"], u["display_name"], u.get("email", ""), ", ".join(u["access_keys"])]
        for u in users
    ]
    echo(
        as_json,
        users,
        lambda: print_table("users", ["id", "state", "display name", "email", "access keys"], rows),
    )


@user.command(epilog="Example: pinfold user disable alice")
@click.argument("user_id", metavar="ID")
@cluster_command
def disable(client: ClusterClient, as_json: bool, user_id: str) -> None:
    """Refuse whatever the keys of user ID sign, within 5 seconds; `enable` takes it back."""
    set_active(client, as_json, f"/v1/users/{quote(user_id, safe='')}", user_id, active=False)


@user.command(epilog="Example: pinfold user enable alice")
@click.argument("user_id", metavar="ID")
@cluster_command
def enable(client: ClusterClient, as_json: bool, user_id: str) -> None:
    """Allow a disabled user again."""
    set_active(client, as_json, f"/v1/users/{quote(user_id, safe='')}", user_id, active=True)


@user.command(epilog="Example: pinfold user delete alice")
@click.argument("user_id", metavar="ID")
@cluster_command
def delete(client: ClusterClient, as_json: bool, user_id: str) -> None:
    """Delete the user ID and its keys. Refused while it owns buckets, and for root.

    The id is never given to another user.
    """
    client.call("DELETE", f"/v1/users/{quote(user_id, safe='')}")
    echo(as_json, {"deleted": user_id}, lambda: click.echo(f"deleted {user_id}"))


def _print_new(made: dict[str, Any]) -> None:
    click.echo(f"created {made['id']}")
    print_pair(made)
