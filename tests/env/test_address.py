import pytest

from pinfold.env.address import TcpAddress, UnixAddress, parse_address
from pinfold.model.errors import Invalid


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        ("tcp://[::1]:0", TcpAddress("::1", 0)),
        ("unix:///run/a b#c?d", UnixAddress("/run/a b#c?d")),
    ],
)
def test_an_address_is_read_and_told_back(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "tcp://", "tcp://h", "tcp://h:x", "tcp://h:99999", "unix://h/p", "http://h:1", "h:1"],
)
def test_anything_else_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        parse_address(text)
