import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.cli.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("10GiB", 10 << 30),
        ("10 gib", 10 << 30),
        ("10G", 10 << 30),
        ("10Gi", 10 << 30),
        ("10GB", 10 * 10**9),
        ("1.5TB", 1_500_000_000_000),
        ("0.5K", 512),
        ("64TiB", 64 << 40),
        ("7B", 7),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "10XB", "-1", "1e3", "10 G i B", "0.3", "1..5G", "٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|whole number"):
        parse_size(text)


@given(st.integers(1, 1023), st.sampled_from([10, 20, 30, 40]))
def test_a_round_size_is_printed_exactly(count: int, power: int) -> None:
    assert parse_size(format_size(count << power)) == count << power


def test_an_odd_size_is_printed_to_one_decimal() -> None:
    assert format_size((1 << 30) + (1 << 29)) == "1.5 GiB"
    assert format_size(1000) == "1000 B"
    assert format_size(0) == "0 B"
