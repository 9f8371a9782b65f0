"""Checksums: known values, and parts that combine to the whole."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.model.errors import Invalid
from pinfold.objects import digests
from tests.twins.env import InlineOffload, hand_env

CHECK = b"123456789"


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [
        ("crc32", "cbf43926"),
        ("crc32c", "e3069283"),
        ("crc64nvme", "ae8b14860a799888"),
        ("sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("md5", "25f9e794323b453885f5181f1b624d0b"),
    ],
)
def test_check_values(algorithm: str, value: str) -> None:
    assert digests.checksum_of(algorithm, CHECK).hex() == value


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=6))
def test_checksums_of_parts_combine_to_the_checksum_of_the_whole(parts: list[bytes]) -> None:
    for algorithm in (digests.CRC32, digests.CRC32C, digests.CRC64NVME):
        of_parts = [(digests.checksum_of(algorithm, part), len(part)) for part in parts]
        whole = digests.checksum_of(algorithm, b"".join(parts))
        assert digests.whole_of_parts(algorithm, of_parts).value == whole


def test_much_is_hashed_in_a_lane_and_little_is_not() -> None:
    lane = InlineOffload("hash")
    running = digests.Digests(("md5", "sha256"), lane)
    little, much = bytes(100), bytes(digests.OFFLOAD_FROM_BYTES)
    asyncio.run(running.update([little], len(little)))
    assert lane.calls == 0
    asyncio.run(running.update([much], len(much)))
    assert lane.calls == 1
    assert running.results()["md5"] == digests.checksum_of("md5", little + much)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(Invalid):
        digests.Hashing(hand_env()).digests(("crc7",))
