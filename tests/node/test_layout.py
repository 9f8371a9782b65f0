import stat
from pathlib import Path

import pytest

from pinfold.model.errors import Invalid
from pinfold.model.ids import NodeName
from pinfold.node.layout import SOCKET_PATH_BYTES_MAX, Layout, checked_name
from pinfold.node.up import prepare_socket_dir

N1 = NodeName("n1")


def test_sockets_lie_in_the_data_directory_when_its_path_is_short() -> None:
    assert Layout.at("/srv/pen").rpc_address(N1) == "unix:///srv/pen/run/n1.sock"


def test_sockets_of_a_long_path_lie_in_a_short_directory_of_its_own() -> None:
    long, other = Layout.at("/srv/" + "x" * 90), Layout.at("/srv/" + "y" * 90)
    address = long.rpc_address(N1)
    assert len(address.removeprefix("unix://")) <= SOCKET_PATH_BYTES_MAX
    assert address != other.rpc_address(N1)
    assert address == long.rpc_address(N1)


def test_the_socket_directory_is_private(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    prepare_socket_dir(layout)
    directory = layout.socket_dir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    prepare_socket_dir(layout)
    if directory.parent != tmp_path:
        directory.rmdir()


@pytest.mark.parametrize("name", ["n1", "s3-1", "rack_7-node-12"])
def test_good_node_names(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", "..", "a/b", "n 1", "x" * 33, "ñ"])
def test_a_node_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="node name"):
        checked_name(name)
