"""Every key and value of a device's index, decoded: what does not make sense is told in words."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from pinfold.codec.names import successor
from pinfold.codec.packs import decode_location
from pinfold.device.applier import APPLIED, decode_applied
from pinfold.device.blobrecords import COUNTS, decode_counts
from pinfold.device.extentpass import life_of_key
from pinfold.device.extentrows import decode_row, of_key
from pinfold.device.group import Group, decode_group, rows_prefix
from pinfold.device.index import Index
from pinfold.device.marks import decode_mark, mark_of_key
from pinfold.device.packs import NEXT_PACK, decode_pack
from pinfold.device.slots import SLOTS, decode_chunk, decode_numbers
from pinfold.device.volume import decode_volume
from pinfold.model.errors import Corrupt
from pinfold.model.ids import GroupId, VolumeId

PROBLEMS_MAX: Final = 100
"""Told in all: a damaged index has as many as it has keys."""


def index_problems(index: Index, groups: Mapping[GroupId, Group]) -> list[str]:
    """What is wrong with the index, at most `PROBLEMS_MAX` things; Corrupt ends it early."""
    found: list[str] = []
    try:
        for problem in _problems(index, groups):
            found.append(problem)
            if len(found) == PROBLEMS_MAX:
                break
    except Corrupt as error:
        found.append(error.message)
    return found


def _problems(index: Index, groups: Mapping[GroupId, Group]) -> Iterator[str]:
    decoders = _decoders(index)
    for table, length, decode in decoders:
        for key, value in index.scan(table, successor(table)):
            if len(key) != length:
                yield f"a key of table {table!r} has {len(key)} bytes: {key.hex()}"
                continue
            try:
                decode(key, value)
            except Corrupt as error:
                yield f"key {key.hex()}: {error.message}"
    known = {table for table, _, _ in decoders} | {b"m", b"r"}
    for table in (bytes((byte,)) for byte in range(256)):
        if table not in known and next(iter(index.scan(table, successor(table))), None):
            yield f"there are keys of an unknown table {table!r}"
    yield from _numbers(index)
    yield from _stray_rows(index, groups)


Decode = Callable[[bytes, bytes], object]


def _decoders(index: Index) -> list[tuple[bytes, int, Decode]]:
    """(table, length of a key, decoder of key and value) of every table but rows and numbers."""

    lives: dict[int, None] = {}

    def volume(key: bytes, value: bytes) -> None:
        lives[decode_volume(VolumeId(key[1:]), value).life] = None

    def dropped(key: bytes, _value: bytes) -> None:
        lives[life_of_key(key)] = None

    def extent(key: bytes, value: bytes) -> None:
        decode_row(value)
        if of_key(key)[0] not in lives:
            raise Corrupt("an extent of no volume")

    def mark(key: bytes, value: bytes) -> None:
        decode_mark(value)
        if mark_of_key(key)[0] not in lives:
            raise Corrupt("a mark of no volume")

    def eight_bytes(_key: bytes, value: bytes) -> None:
        if len(value) != 8:
            raise Corrupt("the length of a freed range has 8 bytes")

    def nothing(_key: bytes, value: bytes) -> None:
        if value:
            raise Corrupt("a note of rows to be removed has no value")

    return [
        (b"b", 17, lambda _, value: decode_location(value)),
        (b"q", 17, lambda _, value: decode_location(value)),
        (b"p", 5, lambda _, value: decode_pack(value)),
        (b"f", 13, eight_bytes),
        (b"g", 9, lambda key, value: decode_group(GroupId(int.from_bytes(key[1:], "big")), value)),
        (b"v", 17, volume),
        (b"z", 9, dropped),
        (b"e", 21, extent),
        (b"d", 13, mark),
        (b"a", 5, lambda _, value: decode_chunk(value)),
        (b"u", 5, lambda _, value: decode_chunk(value)),
        (b"x", 13, nothing),
    ]


def _numbers(index: Index) -> Iterator[str]:
    for key, value in index.scan(b"m", successor(b"m")):
        try:
            if key == APPLIED:
                decode_applied(value)
            elif key == COUNTS:
                decode_counts(value)
            elif key == SLOTS:
                decode_numbers(value)
            elif key != NEXT_PACK:
                yield f"an unknown key {key!r}"
        except Corrupt as error:
            yield error.message


def _stray_rows(index: Index, groups: Mapping[GroupId, Group]) -> Iterator[str]:
    """Rows of no group's present life, unless they are on the list of those to be removed."""
    position = b"r"
    while True:
        first = next(iter(index.scan(position, successor(b"r"))), None)
        if first is None:
            return
        life = first[0][:13]
        group = GroupId(int.from_bytes(life[1:9], "big"))
        known = groups.get(group)
        present = known is not None and rows_prefix(group, known.generation) == life
        if not present and index.get(b"x" + life[1:]) is None and groups:
            yield f"rows of group {group} belong to no life of it"
        after = successor(life)
        assert after is not None, "a life starts with r"
        position = after
