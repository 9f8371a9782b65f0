"""`pinfold secret`: the cluster's own secrets, on the machine that has its data directory."""

import json
import time

import click

from pinfold.cli.cluster import data_option, echo, json_option


@click.group(epilog="Example: pinfold secret rotate token")
def secret() -> None:
    """The root key, the admin token and the secret that nodes prove to each other."""


@secret.command(epilog='Example: eval "$(pinfold secret show)"')
@json_option
@data_option
def show(data: str, as_json: bool) -> None:
    """Print the root user's key as lines for a shell."""
    from pinfold.env.osdisk import OsDisk
    from pinfold.node.access import read_access
    from pinfold.node.layout import Layout
    from pinfold.node.up import region_of

    layout = Layout.at(data)
    access = read_access(OsDisk(), layout)
    region = region_of(layout)
    if as_json:
        keys = {"access_key": access.access_key, "secret_key": access.secret_key}
        click.echo(json.dumps({**keys, "region": region}))
    else:
        click.echo(exports(access.access_key, access.secret_key, region))


@secret.group(epilog="Example: pinfold secret rotate root-key")
def rotate() -> None:
    """Replace a secret of a running cluster; the old one ends within 5 seconds."""


@rotate.command("root-key", epilog="Example: pinfold secret rotate root-key")
@json_option
@data_option
def root_key(data: str, as_json: bool) -> None:
    """Replace the root user's key; `pinfold secret show` prints the new one."""
    from pinfold.env.real import real_env
    from pinfold.node.layout import Layout
    from pinfold.node.rotation import rotate_root_key

    access = rotate_root_key(real_env(), Layout.at(data))
    said = f"the root key is {access.access_key} now: pinfold secret show"
    echo(as_json, {"access_key": access.access_key}, lambda: click.echo(said))


@rotate.command(epilog="Example: pinfold secret rotate token")
@json_option
@data_option
def token(data: str, as_json: bool) -> None:
    """Replace the token of the admin API; commands that have --data read the new one."""
    from pinfold.env.real import real_env
    from pinfold.node.layout import Layout
    from pinfold.node.rotation import rotate_token

    rotate_token(real_env(), Layout.at(data))
    echo(as_json, {"rotated": "token"}, lambda: click.echo("the admin token is replaced"))


@rotate.command(epilog="Example: pinfold secret rotate cluster")
@json_option
@data_option
def cluster(data: str, as_json: bool) -> None:
    """Replace what nodes prove to each other. Takes some seconds; repeat it if it is cut short."""
    from pinfold.env.real import real_env
    from pinfold.node.layout import Layout
    from pinfold.node.rotation import rotate_cluster_secret

    rotate_cluster_secret(real_env(), Layout.at(data), time.sleep)
    echo(as_json, {"rotated": "cluster"}, lambda: click.echo("the cluster secret is replaced"))


def exports(access_key: str, secret_key: str, region: str) -> str:
    """The lines that give a key to S3 clients."""
    return (
        f"  export AWS_ACCESS_KEY_ID={access_key}\n"
        f"  export AWS_SECRET_ACCESS_KEY={secret_key}\n"
        f"  export AWS_DEFAULT_REGION={region}"
    )
