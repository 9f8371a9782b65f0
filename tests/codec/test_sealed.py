import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.codec.sealed import seal, unseal
from pinfold.model.errors import Corrupt


@given(version=st.integers(0, 0xFFFF), payload=st.binary(max_size=300))
def test_what_was_sealed_comes_back(version: int, payload: bytes) -> None:
    assert unseal(b"test", seal(b"test", version, payload)) == (version, payload)


@given(payload=st.binary(max_size=60), data=st.data())
def test_any_flipped_bit_is_noticed(payload: bytes, data: st.DataObject) -> None:
    record = bytearray(seal(b"test", 1, payload))
    position = data.draw(st.integers(0, len(record) * 8 - 1))
    record[position // 8] ^= 1 << (position % 8)
    with pytest.raises(Corrupt):
        unseal(b"test", bytes(record))


@given(payload=st.binary(max_size=60), data=st.data())
def test_a_shortened_record_is_noticed(payload: bytes, data: st.DataObject) -> None:
    record = seal(b"test", 1, payload)
    with pytest.raises(Corrupt):
        unseal(b"test", record[: data.draw(st.integers(0, len(record) - 1))])


def test_another_kind_of_record_is_refused() -> None:
    with pytest.raises(Corrupt, match="instead of"):
        unseal(b"else", seal(b"test", 1, b"payload"))
