"""Secrets: kept in files of mode 0600, replaced while the cluster runs, in steps that repeat."""

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

from pinfold.env.real import real_env
from pinfold.model.errors import Conflict, Corrupt
from pinfold.node import rotation
from pinfold.node.access import Access, Endpoints, read_access, write_access
from pinfold.node.layout import Layout
from pinfold.node.rotation import rotate_cluster_secret, rotate_root_key, rotate_token
from pinfold.node.secrets import (
    SECRET_BYTES,
    follow_secrets,
    new_secret_files,
    read_keyring,
    read_secrets,
    write_keyring,
)
from pinfold.node.up import Ports, UpOptions, note_run
from pinfold.rpc.handshake import Keyring

ENV = real_env()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout.at(tmp_path)
    found.cluster_secret.parent.mkdir()
    new_secret_files(ENV, found)
    access = Access(cluster_id="c", token="first", access_key="AK", secret_key="s")
    write_access(ENV.disk, found, access)
    return found


def test_only_their_owner_reads_the_files(layout: Layout) -> None:
    for path in (layout.cluster_secret, layout.sealing_key, layout.endpoints):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_damaged_file_is_named_and_nothing_is_guessed(layout: Layout) -> None:
    good = layout.cluster_secret.read_bytes()
    for content in (b"", b"{}", good[:-10], b'{"current":1,"secrets":{"0":"00"}}'):
        layout.cluster_secret.write_bytes(content)
        with pytest.raises(Corrupt, match="secrets/cluster"):
            read_keyring(ENV.disk, layout)
    layout.cluster_secret.write_bytes(good)
    layout.sealing_key.write_bytes(b"short")
    with pytest.raises(Corrupt, match="secrets/sealing"):
        read_secrets(ENV, layout)


def test_a_rotation_is_known_then_proved_then_alone(layout: Layout) -> None:
    (old,) = read_keyring(ENV.disk, layout).secrets.values()
    seen: list[Keyring] = []
    rotate_cluster_secret(ENV, layout, lambda _s: seen.append(read_keyring(ENV.disk, layout)))
    known, proved = seen
    assert (known.current, proved.current, set(known.secrets)) == (0, 1, {0, 1})
    assert known.secrets == proved.secrets
    assert known.secrets[0] == old
    last = read_keyring(ENV.disk, layout)
    assert (last.current, last.secrets) == (1, {1: known.secrets[1]})


class _Cut(Exception):
    pass


@pytest.mark.parametrize("step", [1, 2])
def test_a_rotation_that_was_cut_short_is_finished_by_the_next(layout: Layout, step: int) -> None:
    steps = 0

    def cut(_seconds: float) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            raise _Cut

    with pytest.raises(_Cut):
        rotate_cluster_secret(ENV, layout, cut)
    newest = read_keyring(ENV.disk, layout).secrets[1]
    rotate_cluster_secret(ENV, layout, lambda _seconds: None)
    assert read_keyring(ENV.disk, layout) == Keyring(1, {1: newest})


def test_one_rotation_at_a_time(layout: Layout) -> None:
    def again(_seconds: float) -> None:
        with pytest.raises(Conflict, match="another rotation"):
            rotate_token(ENV, layout)

    rotate_cluster_secret(ENV, layout, again)
    rotate_token(ENV, layout)
    assert read_access(ENV.disk, layout).token != "first"


def test_a_root_key_whose_end_was_cut_short_ends_with_the_next_rotation(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = ["AK"]
    cut = [True]

    class Admin:
        def __init__(self, *_where: str) -> None:
            pass

        def call(self, method: str, path: str, _body: object = None) -> dict[str, str]:
            if method == "POST":
                alive.append(f"AK{len(alive)}")
                return {"access_key": alive[-1], "secret_key": "s"}
            if cut and cut.pop():
                raise _Cut
            alive.remove(path.rpartition("/")[2])
            return {}

    monkeypatch.setattr(rotation, "AdminClient", Admin)
    endpoints = Endpoints(s3="http://h:1", nbd="nbd://h:3", admin="http://h:4")
    access = msgspec.structs.replace(read_access(ENV.disk, layout), endpoints=endpoints)
    write_access(ENV.disk, layout, access)
    with pytest.raises(_Cut):
        rotate_root_key(ENV, layout)
    assert alive == ["AK", "AK1"]
    rotate_root_key(ENV, layout)
    assert alive == [read_access(ENV.disk, layout).access_key]
    assert read_access(ENV.disk, layout).ending == ""


def test_processes_follow_the_files(layout: Layout) -> None:
    async def run() -> None:
        secrets = read_secrets(ENV, layout)
        heard: asyncio.Queue[Keyring] = asyncio.Queue()
        errors: asyncio.Queue[Exception] = asyncio.Queue()
        task = asyncio.get_running_loop().create_task(
            follow_secrets(ENV, layout, secrets, heard.put_nowait, errors.put_nowait)
        )
        fresh = Keyring(3, {3: random.Random(1).randbytes(SECRET_BYTES)})
        rotate_token(ENV, layout)
        write_keyring(ENV.disk, layout, fresh)
        async with asyncio.timeout(60):
            assert await heard.get() == fresh
        assert secrets.keyring == fresh
        assert secrets.access.token == read_access(ENV.disk, layout).token != "first"
        good = layout.cluster_secret.read_bytes()
        layout.cluster_secret.write_bytes(b"damaged")
        async with asyncio.timeout(60):
            assert isinstance(await errors.get(), Corrupt)
        assert secrets.keyring == fresh  # what cannot be read changes nothing
        layout.cluster_secret.write_bytes(good)
        aside = layout.endpoints.with_name("aside")
        layout.endpoints.rename(aside)
        layout.endpoints.mkdir()  # stands for any refusal of the system
        async with asyncio.timeout(60):
            while not isinstance(await errors.get(), OSError):
                pass
        layout.endpoints.rmdir()
        aside.rename(layout.endpoints)
        later = Keyring(4, {4: random.Random(2).randbytes(SECRET_BYTES)})
        write_keyring(ENV.disk, layout, later)
        async with asyncio.timeout(60):
            assert await heard.get() == later  # it is still followed
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_start_of_the_cluster_keeps_secrets_that_were_replaced_and_waits_for_no_rotation(
    layout: Layout,
) -> None:
    options = UpOptions(layout=layout, ports=None, restart=False)

    def start(_seconds: float) -> None:
        with pytest.raises(Conflict, match="rotation"):
            note_run(ENV, options, Ports())

    rotate_cluster_secret(ENV, layout, start)
    rotated = rotate_token(ENV, layout)
    noted = note_run(ENV, options, Ports.from_base(7000))
    assert noted == read_access(ENV.disk, layout)
    assert noted.token == rotated.token != "first"
    assert noted.endpoints == Ports.from_base(7000).endpoints()
