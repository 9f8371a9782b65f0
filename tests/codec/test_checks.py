"""The check table does not depend on how a payload is cut into buffers."""

import itertools

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pinfold.codec.checks import payload_checks
from pinfold.model.limits import BLOB_CHECK_BYTES


def naive(payload: bytes) -> list[int]:
    return [
        xxhash.xxh3_64_intdigest(payload[at : at + BLOB_CHECK_BYTES])
        for at in range(0, len(payload), BLOB_CHECK_BYTES)
    ]


@given(
    st.sampled_from([1, 5, BLOB_CHECK_BYTES - 1, BLOB_CHECK_BYTES, BLOB_CHECK_BYTES * 2 + 7]),
    st.lists(st.integers(0, BLOB_CHECK_BYTES * 2), max_size=4),
)
def test_cuts_do_not_matter(length, cuts):
    payload = bytes(range(251)) * (length // 251 + 1)
    payload = payload[:length]
    edges = sorted({0, length, *(cut for cut in cuts if cut < length)})
    parts = [payload[a:b] for a, b in itertools.pairwise(edges)]
    assert payload_checks(parts) == naive(payload)
