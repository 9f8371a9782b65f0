"""How the pages of a copy become durable: many at a time, those of keys behind all others."""

import asyncio

from pinfold.device.api import Part
from pinfold.device.device import Device
from pinfold.model.ids import GroupId
from tests.device.worlds import SETTINGS, lives

G = GroupId(7)


def test_pages_on_their_way_together_share_the_transactions_of_the_index() -> None:
    """And with half a pass's worth of them nobody waits for the interval to end."""
    pages, size = 32, SETTINGS.apply_bytes // 8

    async def first(device: Device) -> None:
        await device.log.create(G)
        await asyncio.sleep(1)  # the applier is at rest
        index, commits = device._applier._index, []
        commit = index.commit

        async def counted(lane: object) -> None:
            commits.append(asyncio.get_running_loop().time())
            await commit(lane)

        index.commit = counted
        began = asyncio.get_running_loop().time()
        done = [
            device.log.install(
                G,
                9,
                1,
                [(b"row-%03d" % page, bytes(size))],
                first=page == 0,
                last=page == pages - 1,
            )
            for page in range(pages)
        ]
        await asyncio.gather(*done)
        assert len(commits) <= 2
        assert asyncio.get_running_loop().time() - began < SETTINGS.apply_interval_s

    lives(first)


def test_a_page_of_named_keys_puts_and_deletes_these_and_touches_no_others() -> None:
    buckets = b"\xff" * 32
    kept = [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")]

    async def first(device: Device) -> None:
        await device.log.create(G)
        part = Part(b"", b"", buckets)
        await device.log.install(G, 5, 1, kept, first=True, last=False, part=part)
        named = Part(b"", b"", buckets, named=True)
        page = [(b"b", None), (b"d", b"2"), (b"never", None)]
        await device.log.install(G, 9, 1, page, first=False, last=True, part=named)
        check(device)

    def check(device: Device) -> None:
        assert list(device.rows.scan(G, b"", None)) == [(b"a", b"1"), (b"c", b"1"), (b"d", b"2")]
        assert device.log.state(G).applied_op == 9

    async def second(device: Device) -> None:
        check(device)

    lives(first, second, crash=True)
