"""`pinfold group`: row groups, and the last resort when one has lost its quorum."""

from typing import Any

import click

from pinfold.cli.cluster import ClusterClient, cluster_command, echo
from pinfold.cli.tables import print_table


@click.group(epilog="Examples: pinfold group show    pinfold group show 7")
def group() -> None:
    """Row groups: who their members are, who leads them, whether they agree."""


@group.command(epilog="Examples: pinfold group show    pinfold group show 7 --json")
@click.argument("number", metavar="[GROUP]", type=click.IntRange(min=0), required=False)
@cluster_command
def show(client: ClusterClient, as_json: bool, number: int | None) -> None:
    """Show one group with what each device says of it, or all groups in a table.

    Digests are compared between members that have applied equally much: they must be equal.
    """
    if number is None:
        found = client.get("/v1/groups")["groups"]
        echo(as_json, found, lambda: print_groups(found))
    else:
        one = client.get(f"/v1/groups/{number}")
        echo(as_json, one, lambda: _print_one(one))


@group.command(
    "force-members",
    epilog="Example: pinfold group force-members 7 --members 1,2 --yes-i-lose-data",
)
@click.argument("number", metavar="GROUP", type=click.IntRange(min=0))
@click.option("--members", required=True, metavar="A,B", help="Devices that survive, by number.")
@click.option(
    "--yes-i-lose-data",
    is_flag=True,
    help="Do it. Without this the command only says what would be given up.",
)
@cluster_command
def force_members(
    client: ClusterClient, as_json: bool, number: int, members: str, yes_i_lose_data: bool
) -> None:
    """Have GROUP go on with the surviving --members after a majority of its disks is gone for good.

    What only the others had acknowledged is lost, and stays lost when they come back. Refused while
    a majority is alive: first try everything to start the nodes that are down.
    """
    try:
        wanted = [int(one) for one in members.split(",")]
    except ValueError:
        raise click.UsageError("--members takes device numbers: --members 1,2") from None
    if not yes_i_lose_data:
        one = client.get(f"/v1/groups/{number}")
        _print_one(one)
        answering = {device["device"] for device in one["devices"]}
        if unknown := [device for device in wanted if device not in answering]:
            raise click.UsageError(
                f"nothing was changed, and {_list(unknown)} could not survive: only "
                f"{_list(sorted(answering))} of the group answer"
            )
        raise click.UsageError(
            f"nothing was changed. The group would go on with {members}; what only others of "
            f"{_list(one['members'])} have acknowledged would be lost. If their disks are gone for "
            "good, say --yes-i-lose-data"
        )
    body = {"members": wanted, "yes_i_lose_data": True}
    done = client.call("POST", f"/v1/groups/{number}/force-members", body)
    echo(as_json, done, lambda: _print_forced(done))


def print_groups(found: list[dict[str, Any]]) -> None:
    """A line for each group as the admin API tells it."""
    rows = [
        [
            one["group"],
            one["state"],
            _device(one.get("primary")),
            _members(one),
            one.get("commit_op", "-"),
            max((device["lag"] for device in one["devices"]), default="-"),
            one.get("digests", "-"),
            _list(one.get("silent", ())),
        ]
        for one in found
    ]
    columns = ["group", "state", "primary", "members", "ops", "lag", "digests", "silent"]
    print_table("groups", columns, rows)


def _print_one(one: dict[str, Any]) -> None:
    if not one["devices"]:
        click.echo(f"group {one['group']}: no device that holds it answers")
        return
    click.echo(f"group {one['group']}: {one['state']}, primary {_device(one['primary'])}")
    click.echo(f"members {_members(one)} (configuration {_configuration(one['configuration'])})")
    click.echo(f"view {_view(one['view'])}, {one['commit_op']} ops, digests: {one['digests']}")
    if one["silent"]:
        click.echo(f"silent: {_list(one['silent'])}")
    names = ["device", "node", "role", "standing", "last_op", "applied_op", "lag", "digest"]
    rows = [[device[name] for name in names] for device in one["devices"]]
    print_table("", [name.replace("_", " ") for name in names], rows)


def _print_forced(done: dict[str, Any]) -> None:
    click.echo(f"group {done['group']} goes on with {_list(done['members'])}")
    click.echo(f"its log is that of device {done['survivor']}, up to op {done['kept_op']}")
    if done["committed_op"] > done["kept_op"]:
        click.echo(f"LOST: ops {done['kept_op'] + 1} to {done['committed_op']}, and any later ones")
    else:
        click.echo("what only the others had acknowledged is lost; nobody who answers knows of any")
    click.echo(f"given up: {_list(done['given_up'])}; they come back as learners, by a copy")


def _device(number: int | None) -> str:
    """A device's number, 0 included."""
    return "-" if number is None else str(number)


def _members(one: dict[str, Any]) -> str:
    text = _list(one["members"])
    if one.get("joining"):
        text += f" -> {_list(one['joining'])}"
    return f"{text} (learners {_list(one['learners'])})" if one.get("learners") else text


def _configuration(number: int) -> str:
    generation, step = divmod(number, 1 << 32)
    return f"{step}, forced {generation} times" if generation else str(step)


def _view(view: int) -> str:
    return f"{view >> 16} of device {view & 0xFFFF}" if view >> 16 else str(view)


def _list(devices: Any) -> str:
    return ", ".join(map(str, devices)) or "-"
