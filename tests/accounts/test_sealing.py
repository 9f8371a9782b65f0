"""Sealed secrets open with the right key, in the right row, and in no other way."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.accounts.sealing import KEY_BYTES, Sealer
from pinfold.model.errors import Corrupt, Invalid
from tests.twins.sealing import SEALER


@given(secret=st.text(max_size=60))
def test_what_was_sealed_opens(secret: str) -> None:
    sealed = SEALER.seal(secret, "AK")
    assert SEALER.unseal(sealed, "AK") == secret
    assert sealed != SEALER.seal(secret, "AK")


def test_it_opens_in_its_own_row_and_under_its_own_key_only() -> None:
    sealed = SEALER.seal("secret", "AK")
    with pytest.raises(Corrupt, match="does not open"):
        SEALER.unseal(sealed, "OTHER")
    with pytest.raises(Corrupt, match="does not open"):
        Sealer(bytes(KEY_BYTES), random.Random(2)).unseal(sealed, "AK")
    with pytest.raises(Invalid, match="32 bytes"):
        Sealer(b"short", random.Random(2))


@given(data=st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(SEALER.seal("secret", "AK"))
    position = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[position // 8] ^= 1 << (position % 8)
    with pytest.raises(Corrupt):
        SEALER.unseal(bytes(sealed), "AK")
