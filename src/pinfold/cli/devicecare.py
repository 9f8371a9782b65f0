"""`pinfold device check`, `repair`, `rebuild-index`: a stopped device is verified and mended."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from pinfold.cli.cluster import echo, json_option
from pinfold.cli.sizes import format_size
from pinfold.cluster.groups.messages import Standing, Voted, encode_voted
from pinfold.device.check import Finding, Progress, Report
from pinfold.device.check import check as check_device
from pinfold.device.checkindex import index_problems
from pinfold.device.engines import engine_name, look_at_engine
from pinfold.device.files import lock_device, read_superblock
from pinfold.device.index import Index
from pinfold.device.offline import look_at
from pinfold.device.rebuild import Rebuilt, rebuild_index
from pinfold.device.repair import repair as repair_device
from pinfold.env.real import real_env
from pinfold.model.settings import DeviceSettings

_SHOWN_MAX: Final = 40
"""Findings printed; `--json` has all of them."""

_path = click.argument("path", type=click.Path(path_type=Path))


@click.command(epilog="Example: pinfold device check /srv/d1")
@_path
@json_option
@click.pass_context
def check(ctx: click.Context, path: Path, as_json: bool) -> None:
    """Verify everything a stopped device at PATH holds; nothing is changed.

    Journal records, index, every blob in the packs and every block of the extents. Exit status: 0
    clean, 1 findings, 2 wrong usage.
    """
    report = verify(str(path.absolute()), as_json)
    echo(as_json, facts(report), lambda: _tell(report))
    if report.findings:
        if not as_json:
            click.echo(f"\nnext: {_next_step(report, path)}")
        ctx.exit(1)


@click.command(epilog="Example: pinfold device repair /srv/d1 --dry-run")
@_path
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@json_option
@click.pass_context
def repair(ctx: click.Context, path: Path, dry_run: bool, as_json: bool) -> None:
    """Check the stopped device at PATH and set aside what does not verify.

    Blobs that fail are quarantined, extents that fail are marked so that the volume's next holder
    writes them again, space that nothing names is freed. Nothing that verifies is removed. What is
    lost here is listed: its other copies refill it. Exit status: 0 repaired (or nothing to do), 1
    the device cannot be repaired, 2 wrong usage.
    """
    where = str(path.absolute())
    report = verify(where, as_json)
    refused = not report.opens
    if not refused and not dry_run and (report.findings or report.leftovers or report.orphans):
        asyncio.run(repair_device(real_env(), where, report))
    document = {**facts(report), "repaired": not refused and not dry_run}
    echo(as_json, document, lambda: _tell_repair(report, dry_run=dry_run))
    if refused:
        if not as_json:
            click.echo(f"\nnothing was changed\nnext: {_next_step(report, path)}")
        ctx.exit(1)


@click.command("probe-index", hidden=True)
@_path
def probe_index(path: Path) -> None:
    """Walk the index at PATH; a damaged one may end this process, and only this one."""
    index = Index(look_at_engine(real_env().disk, f"{path.absolute()}/index"))
    for problem in index_problems(index, {}):
        click.echo(problem)


def verify(where: str, as_json: bool) -> Report:
    """A check, with a bar on the terminal while it reads. What cannot be opened is a finding."""
    disk = real_env().disk
    read_superblock(disk, where)
    lock_device(disk, where).close()  # the index of a served device changes while it is read
    problem = _probe(where)
    if problem:
        return Report(findings=[Finding("index", problem)])
    device = look_at(disk, where)
    try:
        with _bar(as_json) as progress:
            return check_device(disk, where, device, progress)
    finally:
        device.close()


def facts(report: Report) -> dict[str, Any]:
    """A report for programs."""
    return {
        "clean": not report.findings,
        "findings": [{"part": found.part, "what": found.what} for found in report.findings],
        "verified": {
            "journal_records": report.records,
            "blobs": report.blobs,
            "blocks": report.blocks,
        },
        "quarantined": [blob.hex() for blob in report.quarantined],
        "lost_blobs": [blob.hex() for blob in report.bad_blobs],
        "lost_blocks": [
            {"volume": volume.hex(), "extent": extent, "block": block}
            for volume, extent, block in report.bad_blocks
        ],
        "unreferenced_bytes": sum(size for _, _, size in report.leftovers),
        "orphans": report.orphans,
    }


def _probe(where: str) -> str:
    """What is wrong with an index whose reading may kill the process that reads it."""
    if engine_name(real_env().disk, f"{where}/index") != "lmdb":
        return ""
    command = [sys.executable, "-m", "pinfold", "device", "probe-index", where]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode < 0:
        return f"the index is damaged: reading it ends the process (signal {-done.returncode})"
    return ""


@contextmanager
def _bar(as_json: bool) -> Iterator[Progress]:
    if as_json or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with click.progressbar(length=1000, label="verifying", file=sys.stderr) as bar:
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            position = 1000 * done // total if total else 1000
            bar.update(position - shown)
            shown = position

        yield progress


def _tell(report: Report) -> None:
    click.echo(
        f"verified: {report.records} journal records, {report.blobs} blobs, "
        f"{report.blocks} blocks of extents"
    )
    if report.quarantined:
        click.echo(f"quarantined before: {len(report.quarantined)} blobs")
    if report.leftovers:
        size = format_size(sum(size for _, _, size in report.leftovers))
        click.echo(f"unreferenced: {len(report.leftovers)} records, {size} (repair frees them)")
    for name in report.orphans:
        click.echo(f"orphan: {name} (removed at the next start)")
    if not report.findings:
        click.echo("clean")
        return
    click.echo(f"\n{len(report.findings)} findings:")
    for found in report.findings[:_SHOWN_MAX]:
        click.echo(f"  {found.part:9} {found.what}")
    if len(report.findings) > _SHOWN_MAX:
        click.echo(f"  … and {len(report.findings) - _SHOWN_MAX} more: --json has them all")


def _tell_repair(report: Report, *, dry_run: bool) -> None:
    _tell(report)
    if not report.opens:
        return
    would = "would be" if dry_run else "were"
    extents = {(volume, extent) for volume, extent, _ in report.bad_blocks}
    freed = format_size(sum(size for _, _, size in report.leftovers))
    click.echo(
        f"\n{len(report.bad_blobs)} blobs {would} quarantined, {len(extents)} extents {would} "
        f"marked for their volume's holder, {freed} {would} freed"
    )


def _next_step(report: Report, path: Path) -> str:
    parts = {found.part for found in report.findings}
    if "journal" in parts or "log" in parts:
        return (
            "the device lost what it had acknowledged and cannot be mended; see "
            'docs/operating.md, "A device is damaged or refused"'
        )
    if "index" in parts:
        return f"pinfold device rebuild-index {path}"
    return f"pinfold device repair {path}"


@click.command("rebuild-index", epilog="Example: pinfold device rebuild-index /srv/d1")
@_path
@click.option("--force", is_flag=True, help="Also when the index can be read: give it up.")
@json_option
def rebuild(path: Path, force: bool, as_json: bool) -> None:
    """Make a new index for the stopped device at PATH, whose own is lost or damaged.

    Blobs come from the packs and the journal. What only the index knew is never guessed: rows are
    copied from the groups' other members, and extents are written again by their volumes' holders,
    both when the node is started. A device whose journal is not whole is refused: replace it.
    """
    where = str(path.absolute())
    disk = real_env().disk
    read_superblock(disk, where)
    lock_device(disk, where).close()
    unreadable = bool(_probe(where))
    lost_vote = encode_voted(Voted(Standing.COPYING))
    rebuilt = rebuild_index(disk, where, DeviceSettings(), lost_vote, force=force or unreadable)
    document = {
        "whole": rebuilt.whole,
        "blobs": rebuilt.blobs,
        "blob_bytes": rebuilt.blob_bytes,
        "lost_blobs": [blob.hex() for blob in rebuilt.quarantined],
        "lost_groups": rebuilt.groups,
        "lost_volumes": [volume.hex() for volume in rebuilt.volumes],
    }
    echo(as_json, document, lambda: _tell_rebuilt(rebuilt, path))


def _tell_rebuilt(rebuilt: Rebuilt, path: Path) -> None:
    if rebuilt.whole:
        click.echo("the journal holds everything since the device was made: nothing is lost")
    else:
        size = format_size(rebuilt.blob_bytes)
        click.echo(f"{rebuilt.blobs} blobs ({size}) found in {rebuilt.packs} packs")
        click.echo(f"{len(rebuilt.quarantined)} blobs fail their checks: other copies have them")
        click.echo(f"{len(rebuilt.groups)} row groups will be copied from their other members")
        click.echo(f"{len(rebuilt.volumes)} volumes will be written again by their holders")
    click.echo(f"next: start the node; `pinfold device check {path}` verifies the device before")
