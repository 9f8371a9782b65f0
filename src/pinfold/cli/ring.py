"""`pinfold ring`: build and judge placement rings in files, with or without a cluster.

Rule: a builder file is replaced whole or not at all, and not if somebody else replaced it
meanwhile. What the numbers mean stands in `pinfold_ring`.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from typing import IO, Any, Final, NoReturn

import click

from pinfold.cli.cluster import echo, json_option
from pinfold.cli.sizes import format_size
from pinfold.cli.sizes import size as size_type
from pinfold.cli.tables import print_table
from pinfold.env.osdisk import OsDisk
from pinfold_ring import Builder, Device, Plan, Ring, RingError, Topology
from pinfold_ring.report import balance, changed_devices, compare, dispersion

PART_POWER: Final = 12
"""Default part power: 4,096 partitions suit up to some 100 devices; it cannot change later."""

HANDOFFS_SHOWN: Final = 5
"""Handoffs that `lookup` prints: those a request would try."""


class _Refused(click.ClickException):
    """Refused or failed: exit status 1, with what to do next."""

    exit_code = 1

    def __init__(self, message: str, step: str) -> None:
        super().__init__(message)
        self.step = step
        context = click.get_current_context(silent=True)
        self.as_json = bool(context and context.params.get("as_json"))

    def show(self, file: IO[Any] | None = None) -> None:
        if self.as_json:
            error = {"code": "refused", "message": self.message, "do": self.step}
            click.echo(json.dumps({"error": error}), err=True)
            return
        click.echo(f"pinfold: {self.message}", err=True)
        click.echo(f"  next: {self.step}", err=True)


def _refuse(message: str, step: str) -> NoReturn:
    raise _Refused(message, step)


def _ring_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, and errors of the ring library as refusals."""

    @json_option
    @wraps(command)
    def reporting(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except RingError as error:
            _refuse(str(error), "nothing was changed; `pinfold ring show FILE` tells the state")

    return reporting


@click.group(
    epilog="Example: pinfold ring create objects.builder --replicas 3 && "
    "pinfold ring add objects.builder --zone z1 --node n1 --weight 4 && "
    "pinfold ring rebalance objects.builder"
)
def ring() -> None:
    """Build and inspect placement rings; works without a cluster.

    A builder file holds the devices you want and the current ring. `add`, `set-weight` and
    `remove` change the wish; `rebalance` makes the next ring of it, after showing what moves.

    Exit status: 0 done, 1 refused or failed (nothing was changed), 2 wrong usage.
    """


@ring.command(epilog="Example: pinfold ring create objects.builder --part-power 12 --replicas 3")
@click.argument("file")
@click.option("--name", help="Name of the ring.  [default: the file's name]")
@click.option("--part-power", type=int, default=PART_POWER, show_default=True)
@click.option("--replicas", type=int, default=3, show_default=True, help="Or fragments, k + m.")
@click.option("--salt", default="", help="Makes keys lie differently than in other rings.")
@_ring_command
def create(
    as_json: bool, file: str, name: str | None, part_power: int, replicas: int, salt: str
) -> None:
    """Start a builder FILE without devices. Part power and replicas cannot change later."""
    if _disk.exists(_path(file)):
        _refuse(f"{file} exists", "choose another name, or remove the file if it is not needed")
    name = name or os.path.basename(file).split(".")[0]
    builder = Builder(name=name, part_power=part_power, replicas=replicas, salt=salt.encode())
    _save(file, builder, before=None)
    made = _state(builder)
    echo(as_json, made, lambda: click.echo(f"created {file}; next: pinfold ring add {file} …"))


@ring.command(
    epilog="Example: pinfold ring add objects.builder --zone z1 --node n1 --weight 4 --count 8"
)
@click.argument("file")
@click.option("--id", "device_id", type=int, help="Number of the (first) device.  [default: next]")
@click.option("--region", default="r1", show_default=True)
@click.option("--zone", required=True)
@click.option("--node", required=True)
@click.option("--weight", type=float, default=1.0, show_default=True, help="Relative, e.g. in TB.")
@click.option("--uuid", default="", help="The uuid `pinfold device format` printed, in hex.")
@click.option("--meta", default="", help="A note.")
@click.option("--count", type=click.IntRange(1), default=1, help="Add so many alike.")
@_ring_command
def add(
    as_json: bool, file: str, device_id: int | None, uuid: str, count: int, **fields: Any
) -> None:
    """Add one device, or several alike."""
    builder, before = _load(file)
    if uuid and count > 1:
        raise click.UsageError("--uuid names one device, --count asks for several")
    try:
        raw_uuid = bytes.fromhex(uuid.replace("-", ""))
    except ValueError:
        raise click.BadParameter(f"{uuid!r} is not hex", param_hint="--uuid") from None
    known = [device.id for device in builder.topology]
    if builder.ring:
        known += [device.id for device in builder.ring.devices]
    first = max(known, default=-1) + 1 if device_id is None else device_id
    added = [Device(id=first + index, uuid=raw_uuid, **fields) for index in range(count)]
    topology = Topology([*builder.topology, *added])
    _save(file, builder.with_topology(topology), before)
    numbers = ", ".join(str(device.id) for device in added)
    _echo_wish(as_json, file, [_fields(device) for device in added], f"added {numbers}")


@ring.command("set-weight", epilog="Example: pinfold ring set-weight objects.builder 7 0")
@click.argument("file")
@click.argument("device_id", type=int, metavar="DEVICE")
@click.argument("weight", type=float)
@_ring_command
def set_weight(as_json: bool, file: str, device_id: int, weight: float) -> None:
    """Change the weight of one DEVICE; 0 empties it while it can still be read."""
    builder, before = _load(file)
    topology = builder.topology.with_weight(device_id, weight)
    _save(file, builder.with_topology(topology), before)
    changed = _fields(topology.device(device_id))
    _echo_wish(as_json, file, [changed], f"device {device_id} has weight {weight:g}")


@ring.command(epilog="Example: pinfold ring remove objects.builder 7")
@click.argument("file")
@click.argument("device_ids", type=int, metavar="DEVICE...", nargs=-1, required=True)
@_ring_command
def remove(as_json: bool, file: str, device_ids: tuple[int, ...]) -> None:
    """Remove devices that are lost. Empty a living one first: set-weight 0, rebalance."""
    builder, before = _load(file)
    topology = builder.topology
    removed = []
    for device_id in device_ids:
        removed.append(_fields(topology.device(device_id)))
        topology = topology.without(device_id)
    _save(file, builder.with_topology(topology), before)
    _echo_wish(as_json, file, removed, f"removed {', '.join(map(str, device_ids))}")


@ring.command(
    epilog="Example: pinfold ring rebalance objects.builder --dry-run --bytes 40TiB --rate 50MiB"
)
@click.argument("file")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also when too few replicas stay in place.")
@click.option(
    "--in-place",
    type=click.IntRange(0),
    help="Refuse if any partition has fewer replicas that stay.  [default: all but one]",
)
@click.option("--bytes", "total", type=size_type, help="What the ring holds, all replicas.")
@click.option("--rate", type=size_type, help="Bytes per second one device may move.")
@click.option("--output", metavar="RING", help="Also write the ring alone, for a cluster.")
@_ring_command
def rebalance(
    as_json: bool,
    file: str,
    dry_run: bool,
    yes: bool,
    force: bool,
    in_place: int | None,
    total: int | None,
    rate: int | None,
    output: str | None,
) -> None:
    """Make the next ring for the devices wished for. The plan comes first."""
    builder, before = _load(file)
    if as_json and not (dry_run or yes):
        raise click.UsageError("--json does not ask: give --yes or --dry-run")
    following = builder.rebalance()
    after = following.ring
    assert after is not None
    plan = compare(builder.ring, after, total, rate) if builder.ring else None
    if not as_json:
        _print_plan(plan, after)
    floor = builder.replicas - 1 if in_place is None else in_place
    if plan and plan.lowest_in_place < floor and not (force or dry_run):
        _refuse(
            f"a partition would keep {plan.lowest_in_place} replicas in place, fewer than {floor}",
            "remove fewer devices at a time, or give --force if those are lost anyway",
        )
    done = not dry_run and (yes or click.confirm("Make this the next ring?", abort=True))
    if done:
        _save(file, following, before)
        if output:
            _disk.write_file(_path(output), after.to_bytes())
    answer = {"done": done, "epoch": after.epoch, "plan": _plan_fields(plan)}
    echo(as_json, answer, lambda: _print_outcome(done, plan, after, output))


@ring.command(epilog="Example: pinfold ring lookup objects.builder photos/cat.jpg")
@click.argument("file")
@click.argument("key")
@_ring_command
def lookup(as_json: bool, file: str, key: str) -> None:
    """Show where KEY lies: its partition, devices and first handoffs."""
    found = _load_ring(file)
    partition = found.partition(key.encode("utf-8", "surrogateescape"))
    devices = [found.topology.device(device_id) for device_id in found.devices_of(partition)]
    handoffs = [found.topology.device(device_id) for device_id in found.handoffs(partition)]
    handoffs = handoffs[:HANDOFFS_SHOWN]
    answer = {
        "epoch": found.epoch,
        "partition": partition,
        "devices": [_fields(device) for device in devices],
        "handoffs": [_fields(device) for device in handoffs],
    }
    roles = [*(["replica"] * len(devices)), *(["handoff"] * len(handoffs))]
    rows = [
        (role, device.id, *device.place)
        for role, device in zip(roles, [*devices, *handoffs], strict=True)
    ]
    title = f"partition {partition} of {found.parts}, epoch {found.epoch}"
    echo(as_json, answer, lambda: print_table(title, ("", "device", *_PLACE), rows))


@ring.command(epilog="Example: pinfold ring show objects.builder --json")
@click.argument("file")
@_ring_command
def show(as_json: bool, file: str) -> None:
    """Show a builder or ring: devices, balance, spread over failure domains, open changes."""
    builder, _ = _load(file)
    echo(as_json, _state(builder), lambda: _print_state(builder))


@ring.command(epilog="Example: pinfold ring diff old.ring new.ring --bytes 40TiB --rate 50MiB")
@click.argument("old")
@click.argument("new")
@click.option("--bytes", "total", type=size_type, help="What the ring holds, all replicas.")
@click.option("--rate", type=size_type, help="Bytes per second one device may move.")
@_ring_command
def diff(as_json: bool, old: str, new: str, total: int | None, rate: int | None) -> None:
    """Show what moves between two rings (or the rings of two builders)."""
    after = _load_ring(new)
    plan = compare(_load_ring(old), after, total, rate)
    echo(as_json, _plan_fields(plan), lambda: _print_plan(plan, after))


_PLACE: Final = ("region", "zone", "node")
_disk: Final = OsDisk()


def _path(file: str) -> str:
    return os.path.abspath(file)


def _read(file: str) -> bytes:
    try:
        return _disk.read_file(_path(file))
    except FileNotFoundError:
        _refuse(f"there is no file {file}", f"start one with `pinfold ring create {file}`")
    except OSError as error:
        _refuse(f"cannot read {file}: {error.strerror}", "check the path and its permissions")


def _load(file: str) -> tuple[Builder, bytes]:
    """The builder in a file and its bytes; a ring file counts as one without open changes."""
    content = _read(file)
    try:
        if not content.startswith(b"PINFRING"):
            return Builder.from_bytes(content), content
        found = Ring.from_bytes(content)
    except RingError as error:
        _refuse(f"{file}: {error}", "restore it from a backup, or name another file")
    builder = Builder(
        name=found.name,
        part_power=found.part_power,
        replicas=found.replicas,
        salt=found.salt,
        topology=found.topology,
        ring=found,
    )
    return builder, content


def _load_ring(file: str) -> Ring:
    builder, _ = _load(file)
    if builder.ring is None:
        _refuse(f"{file} has no ring yet", f"make it: pinfold ring rebalance {file}")
    return builder.ring


def _save(file: str, builder: Builder, before: bytes | None) -> None:
    if before is not None:
        if before.startswith(b"PINFRING"):
            _refuse(f"{file} is a finished ring", "change the builder file it was made from")
        if _read(file) != before:
            _refuse(f"{file} was changed by somebody else meanwhile", "run the command again")
    try:
        _disk.write_file(_path(file), builder.to_bytes())
    except OSError as error:
        _refuse(f"cannot write {file}: {error.strerror}", "check the directory and free space")


def _echo_wish(as_json: bool, file: str, devices: list[dict[str, Any]], text: str) -> None:
    step = f"pinfold ring rebalance {file}"
    echo(as_json, {"devices": devices}, lambda: click.echo(f"{text}; next: {step}"))


def _fields(device: Device) -> dict[str, Any]:
    return device.to_fields() | {"uuid": device.uuid.hex()}


def _plan_fields(plan: Plan | None) -> dict[str, Any] | None:
    if plan is None:
        return None
    devices = [asdict(change) | {"device": _fields(change.device)} for change in plan.devices]
    return asdict(plan) | {"devices": devices}


def _state(builder: Builder) -> dict[str, Any]:
    before = builder.ring.topology if builder.ring else Topology()
    added, removed, changed = changed_devices(before, builder.topology)
    answer: dict[str, Any] = {
        "name": builder.name,
        "part_power": builder.part_power,
        "replicas": builder.replicas,
        "devices": [_fields(device) for device in builder.topology],
        "open": {
            "added": [device.id for device in added],
            "removed": [device.id for device in removed],
            "changed": [device.id for device in changed],
        },
        "ring": None,
    }
    if builder.ring:
        answer["ring"] = {
            "epoch": builder.ring.epoch,
            "checksum": builder.ring.checksum.hex(),
            "previous_epoch": builder.ring.previous_epoch,
            "balance": [
                {"device": each.device.id, "replicas": each.replicas, "fair": each.fair}
                for each in balance(builder.ring)
            ],
            "dispersion": [asdict(each) for each in dispersion(builder.ring)],
        }
    return answer


def _print_state(builder: Builder) -> None:
    state = _state(builder)
    current = builder.ring
    click.echo(
        f"{builder.name}: {1 << builder.part_power} partitions x {builder.replicas}, "
        + (f"epoch {current.epoch}, {current.checksum.hex()}" if current else "no ring yet")
    )
    held = {each.device.id: each for each in balance(current)} if current else {}
    rows = []
    for device in builder.topology:
        holding = held.get(device.id)
        shown = (holding.replicas, f"{holding.fair:.1f}") if holding else ("", "")
        rows.append((device.id, *device.place, f"{device.weight:g}", *shown, device.meta))
    columns = ("device", *_PLACE, "weight", "replicas", "fair share", "note")
    print_table("devices", columns, rows)
    if current:
        _print_dispersion(current)
    waiting = {kind: ids for kind, ids in state["open"].items() if ids}
    if waiting:
        listed = "; ".join(f"{kind} {', '.join(map(str, ids))}" for kind, ids in waiting.items())
        click.echo(f"not in the ring yet: {listed}\n  next: pinfold ring rebalance FILE")


def _print_dispersion(current: Ring) -> None:
    rows = []
    for domain in dispersion(current):
        most = max(count for count, partitions in enumerate(domain.counts) if partitions)
        allowed, crowded = domain.allowed, domain.crowded or ""
        rows.append(
            (domain.level, "/".join(domain.path), f"{domain.fair:.2f}", most, allowed, crowded)
        )
    print_table(
        "replicas of one partition in one place",
        ("", "", "average", "most", "fair most", "partitions above"),
        rows,
    )


def _print_plan(plan: Plan | None, after: Ring) -> None:
    if plan is None:
        click.echo(f"first ring: {after.parts} partitions x {after.replicas}, nothing moves")
        return
    rows = [
        (
            change.device.id,
            *change.device.place,
            f"{change.device.weight:g}",
            change.before,
            change.after,
            change.incoming,
            change.outgoing,
            "" if change.incoming_bytes is None else format_size(change.incoming_bytes),
        )
        for change in plan.devices
    ]
    columns = ("device", *_PLACE, "weight", "before", "after", "in", "out", "bytes in")
    print_table(f"plan for epoch {after.epoch}", columns, rows)
    size = "" if plan.bytes is None else f", {format_size(plan.bytes)}"
    time = "" if plan.hours is None else f", {plan.hours:.1f} hours"
    click.echo(
        f"{plan.moves} of {after.table.size} replicas move{size}{time}; "
        f"{plan.forced} of them leave removed devices"
    )
    click.echo(f"every partition keeps at least {plan.lowest_in_place} replicas in place")


def _print_outcome(done: bool, plan: Plan | None, after: Ring, output: str | None) -> None:
    if not done:
        click.echo("dry run: nothing was changed")
        return
    click.echo(f"epoch {after.epoch} made" + (f", written to {output}" if output else ""))
    if plan and plan.remaining:
        click.echo(
            f"  next: {plan.remaining} replicas still have to move, at most one per partition at "
            "a time: rebalance again when these have arrived"
        )
