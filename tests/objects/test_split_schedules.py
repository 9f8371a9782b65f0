"""Splits under load, whatever the order of everybody's steps; each test says what it prevents."""

import asyncio

import pytest

from tests.objects.scheduled import NAMES, Scheduled, scheduled

SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_split_under_puts_and_deletes_loses_doubles_and_resurrects_no_name(seed: int) -> None:
    async def scenario(world: Scheduled) -> None:
        await world.fill()
        gateways = [world.gateway() for _ in range(3)]
        for gateway in gateways:
            await gateway.buckets.get("bucket")  # all they will know unless they are refused
        await world.begin_split()

        async def client(number: int) -> None:
            for _ in range(5):
                name, gateway = world.rng.choice(NAMES), gateways[number]
                act = world.rng.choice([world.put, world.delete, world.get, world.get])
                await act(gateway, name)

        await world.play(
            lambda: client(0),
            lambda: client(1),
            lambda: client(2),
            lambda: world.split(world.gateway()),
        )

    scheduled(seed, scenario)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_listing_during_a_split_misses_and_repeats_no_name(seed: int) -> None:
    async def scenario(world: Scheduled) -> None:
        await world.fill()
        lister, writer = world.gateway(), world.gateway()
        await lister.buckets.get("bucket")
        await world.begin_split()

        async def lists() -> None:
            for _ in range(3):
                delimiter = world.rng.choice(["", "/"])
                await world.list_names(
                    lister, delimiter=delimiter, limit=world.rng.choice([1, 2, 5])
                )

        async def writes() -> None:
            for _ in range(3):
                await world.put(writer, world.rng.choice(NAMES))
                await world.delete(writer, world.rng.choice(NAMES))

        await world.play(lists, writes, lambda: world.split(world.gateway()))

    scheduled(seed, scenario)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_splitters_of_one_shard_copy_no_row_over_a_newer_one(seed: int) -> None:
    async def scenario(world: Scheduled) -> None:
        await world.fill()
        await world.begin_split()
        writer = world.gateway()

        async def writes() -> None:
            for name in reversed(NAMES[2:]):
                await world.delete(writer, name)
                await world.get(writer, name)

        await world.play(
            writes,
            lambda: world.split(world.gateway()),
            lambda: world.split(world.gateway()),
        )

    scheduled(seed, scenario)


@pytest.mark.parametrize("seed", SEEDS)
def test_names_that_a_dead_splitter_sealed_are_not_lost_to_their_clients(seed: int) -> None:
    async def scenario(world: Scheduled) -> None:
        await world.fill()
        await world.begin_split()

        async def client() -> None:
            gateway = world.gateway()
            for name in NAMES[3:]:
                await world.put(gateway, name)
                await world.get(gateway, name)

        dies_after = world.rng.randrange(1, 24)
        await world.play(client, lambda: world.split(world.gateway(), steps=dies_after))

    scheduled(seed, scenario)


@pytest.mark.parametrize("seed", SEEDS)
def test_complete_against_abort_has_one_winner_and_frees_no_part_of_the_object(seed: int) -> None:
    async def scenario(world: Scheduled) -> None:
        await world.fill(NAMES[:2])
        name = NAMES[4]
        upload, token = await world.open(world.store, name)
        splitting = seed % 2 == 0
        if splitting:
            await world.begin_split()
        ends = [
            lambda: world.complete(world.gateway(), name, upload, token),
            lambda: world.abort(world.gateway(), name, upload),
            lambda: world.complete(world.gateway(), name, upload, token),
        ]
        if splitting:
            ends.append(lambda: world.split(world.gateway()))
        await world.play(*ends)
        calls = [call for call in world.recorder.history().operations if call.upload]
        outcomes = {call.kind for call in calls if call.outcome == "ok"}
        assert len(outcomes) == 1, "both have won, or none"

    scheduled(seed, scenario)


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_and_completes_follow_their_name_through_a_split(seed: int) -> None:
    async def scenario(world: Scheduled) -> None:
        await world.fill()
        uploads = {name: await world.open(world.store, name) for name in NAMES[2:5]}
        gateway = world.gateway()
        await gateway.buckets.get("bucket")
        await world.begin_split()

        async def ends() -> None:
            for name, (upload, token) in uploads.items():
                await world.complete(gateway, name, upload, token)
                await world.get(gateway, name)

        async def opens() -> None:
            for name in NAMES[3:]:
                upload, token = await world.open(gateway, name)
                await world.complete(gateway, name, upload, token)

        await world.play(ends, opens, lambda: world.split(world.gateway()))

    scheduled(seed, scenario)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_acknowledged_put_is_in_a_bucket_that_was_deleted(seed: int) -> None:
    async def scenario(world: Scheduled) -> None:
        await world.fill(NAMES[:1])
        await world.begin_split(until=NAMES[3])
        await world.split(world.store)
        await world.put(world.store, NAMES[5])
        await world.begin_split(until=NAMES[5])
        await world.split(world.store)
        for name in (NAMES[0], NAMES[5]):
            await world.delete(world.store, name)
        writer = world.gateway()
        await writer.buckets.get("bucket")

        async def writes() -> None:
            await world.put(writer, NAMES[world.rng.choice([1, 5])])

        await world.play(
            writes,
            lambda: world.delete_bucket(world.gateway()),
            *[lambda: world.delete_bucket(world.gateway())] * (seed % 2),
        )

    scheduled(seed, scenario)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_refused_delete_leaves_no_shard_sealed(seed: int) -> None:
    async def scenario(world: Scheduled) -> None:
        await world.fill(NAMES[4:])
        await world.begin_split(until=NAMES[4] + "x")
        await world.split(world.store)
        await world.delete(world.store, NAMES[4])

        async def writes() -> None:
            gateway = world.gateway()
            await world.put(gateway, NAMES[4])
            await world.put(gateway, NAMES[5])

        await world.play(
            lambda: world.delete_bucket(world.gateway()),
            lambda: world.delete_bucket(world.gateway()),
            writes,
        )
        await world.put(
            world.gateway(), NAMES[4]
        )  # a seal left by a loser is lifted by its refusal
        await world.put(world.gateway(), NAMES[5])
        assert await world.sealed_shards() == []

    scheduled(seed, scenario)


@pytest.mark.parametrize("seed", [*SEEDS, 5247])
def test_a_split_against_delete_bucket_leaves_no_name_behind(seed: int) -> None:
    async def scenario(world: Scheduled) -> None:
        await world.fill(NAMES[3:])
        await world.begin_split(until=NAMES[4])
        cleaner = world.gateway()

        async def empties() -> None:
            for name in NAMES[3:]:
                await world.delete(cleaner, name)
            await world.delete_bucket(cleaner)

        async def writes() -> None:
            await asyncio.sleep(world.rng.random() * 0.3)
            await world.put(world.gateway(), NAMES[5])

        await world.play(empties, lambda: world.split(world.gateway()), writes)

    scheduled(seed, scenario)
