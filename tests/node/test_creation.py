import asyncio
import stat
from pathlib import Path

import pytest

from pinfold.cluster.embedded_map import EmbeddedMap
from pinfold.env.real import real_env
from pinfold.model.errors import Conflict, Corrupt, NotFound
from pinfold.model.ids import NodeName
from pinfold.node.access import read_access
from pinfold.node.creation import ensure_cluster, hold_data
from pinfold.node.layout import Layout

ENV = real_env()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path / "data")


def create(layout: Layout) -> None:
    lock = hold_data(ENV, layout)
    try:
        asyncio.run(ensure_cluster(ENV, layout))
    finally:
        lock.close()


def test_a_fresh_directory_becomes_a_cluster_of_three_devices(layout: Layout) -> None:
    create(layout)
    store = EmbeddedMap(ENV, str(layout.map), lambda _error: None)
    cluster = store.get()
    store._store.close()
    store._lane.close()
    assert [device.node for device in cluster.devices] == ["n1", "n2", "n3"]
    assert len({device.zone for device in cluster.devices}) == 3
    assert all(layout.device(device.path).is_dir() for device in cluster.devices)
    assert set(cluster.rings) == {"metadata", "blobs", "volumes"}
    assert read_access(ENV.disk, layout).cluster_id == cluster.cluster_id.hex()


def test_secrets_are_for_their_owner_only(layout: Layout) -> None:
    create(layout)
    for path in (layout.endpoints, layout.cluster_secret, layout.marker):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.root.stat().st_mode) == 0o700


def test_a_second_start_keeps_everything(layout: Layout) -> None:
    create(layout)
    before = read_access(ENV.disk, layout)
    device = layout.devices / "n1" / "d1" / "device.pinfold"
    content = device.read_bytes()
    create(layout)
    assert read_access(ENV.disk, layout) == before
    assert device.read_bytes() == content


def test_an_interrupted_creation_starts_again_from_nothing(layout: Layout) -> None:
    create(layout)
    before = read_access(ENV.disk, layout)
    layout.marker.write_text(layout.marker.read_text().replace("ready", "creating"))
    create(layout)
    assert read_access(ENV.disk, layout).cluster_id != before.cluster_id


def test_a_directory_with_foreign_files_is_refused_and_left_alone(layout: Layout) -> None:
    layout.root.mkdir()
    (layout.root / "thesis.tex").write_text("years of work")
    with pytest.raises(Conflict, match="not Pinfold's"):
        create(layout)
    assert [path.name for path in layout.root.iterdir()] == ["thesis.tex"]


def test_a_file_in_its_place_is_refused(layout: Layout) -> None:
    layout.root.write_text("")
    with pytest.raises(Conflict, match="not a directory"):
        create(layout)


def test_a_second_supervisor_is_refused(layout: Layout) -> None:
    lock = hold_data(ENV, layout)
    with pytest.raises(Conflict, match=r"is running on .* already \(process \d+\)"):
        hold_data(ENV, layout)
    lock.close()


def test_a_finished_cluster_without_its_keys_is_not_made_anew(layout: Layout) -> None:
    create(layout)
    layout.endpoints.write_text("{")
    with pytest.raises(Corrupt, match=r"cluster\.json"):
        create(layout)


def test_a_cluster_that_lost_its_keys_is_not_called_absent(layout: Layout) -> None:
    create(layout)
    layout.endpoints.unlink()
    with pytest.raises(NotFound, match="restore it"):
        create(layout)


def test_a_directory_of_another_format_is_refused(layout: Layout) -> None:
    create(layout)
    layout.marker.write_text(layout.marker.read_text().replace('"format":1', '"format":2'))
    with pytest.raises(Conflict, match="format 2"):
        create(layout)


def test_every_node_has_settings_to_edit_which_survive(layout: Layout) -> None:
    create(layout)
    settings = layout.settings(NodeName("n1"))
    settings.write_text("[process]\nlog_level = 'debug'\n")
    create(layout)
    assert "debug" in settings.read_text()
