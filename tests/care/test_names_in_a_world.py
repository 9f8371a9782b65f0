"""Pages of names: all that a group names, whatever their size, and a token that tells of moves."""

import asyncio

from pinfold.care.names import NamesPage, names_page
from pinfold.cluster.api import Change, Row
from pinfold.model.ids import GroupId
from tests.care.test_repair_in_a_world import run
from tests.care.world import NAME_WITHIN_S

GROUP = GroupId(0)
PLACE = b"\x00"


async def pages(client, limit) -> list[NamesPage]:
    async def work():
        found = [await names_page(client.rows, GROUP, b"", limit)]
        while found[-1].next_start is not None:
            found.append(await names_page(client.rows, GROUP, found[-1].next_start, limit))
        return found

    return await client.do(work)


def ids(found):
    return sorted(blob for page in found for blob in page.blobs)


async def name(cluster, client, key, *refs, deletes=()):
    change = Change(cluster.op_id(), puts=((key, Row(b"", blobs=refs)),), deletes=deletes)
    await client.do(lambda: client.rows.change(PLACE, change))


def test_pages_of_any_size_tell_every_name_and_what_waits_to_be_given_back():
    async def scenario(cluster, client):
        refs = [await client.store(b"%d" % n * 2000) for n in range(9)]
        for n, ref in enumerate(refs[:7]):
            await name(cluster, client, b"k%d" % n, ref)
        await name(cluster, client, b"many", *refs[7:])
        dropped = Change(cluster.op_id(), deletes=(b"k0", b"k3"))
        await client.do(lambda: client.rows.change(PLACE, dropped))
        whole = await pages(client, 1000)
        assert len(whole) == 2, "what waits to be given back, then rows"
        assert set(ids(whole)) == {ref.id for ref in refs}
        for limit in (1, 2, 3):
            small = await pages(client, limit)
            assert len(small) >= 3
            assert ids(small) == ids(whole)
            assert {page.token for page in small} == {whole[0].token}
        (only_token,) = [await client.do(lambda: names_page(client.rows, GROUP, b"\x01", 0))]
        assert (only_token.token, only_token.blobs) == (whole[0].token, ())

    run(scenario)


def test_a_token_differs_once_an_old_name_has_moved_or_the_primary_is_another():
    async def scenario(cluster, client):
        ref = await client.store(b"x" * 2000)
        await name(cluster, client, b"a", ref)
        await name(cluster, client, b"b", ref, deletes=(b"a",))
        young = (await pages(client, 10))[0].token
        await asyncio.sleep(NAME_WITHIN_S + 5)
        assert (await pages(client, 10))[0].token == young
        await name(cluster, client, b"b", ref)
        assert (await pages(client, 10))[0].token == young, "rewritten in place"
        await name(cluster, client, b"c", ref, deletes=(b"b",))
        moved = (await pages(client, 10))[0].token
        assert moved != young
        primary = next(
            node
            for node, service in cluster.services.items()
            if any(bound.group == GROUP for bound in service.led())
        )
        cluster.crash(primary)
        await asyncio.sleep(5)
        assert (await pages(client, 10))[0].token not in (young, moved)

    run(scenario)
