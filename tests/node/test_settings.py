from pathlib import Path
from typing import Any

import msgspec
import pytest

from pinfold.model.errors import Invalid, NotFound
from pinfold.model.ids import NodeName
from pinfold.node.layout import Layout
from pinfold.node.settings import TEMPLATE, NodeSettings, read_settings

N1 = NodeName("n1")


def settings_of(tmp_path: Path, content: str) -> NodeSettings:
    layout = Layout.at(tmp_path)
    layout.settings(N1).parent.mkdir(exist_ok=True)
    layout.settings(N1).write_text(content)
    return read_settings(layout, N1)


def test_the_template_gives_the_defaults(tmp_path: Path) -> None:
    assert settings_of(tmp_path, TEMPLATE.format(name="n1")) == NodeSettings()


def test_the_templates_example_is_valid(tmp_path: Path) -> None:
    example = TEMPLATE.format(name="n1").partition("For example:\n")[2].replace("# ", "")
    settings = settings_of(tmp_path, example.replace("#", ""))
    assert settings.process.log_level == "debug"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[proces]\n", "proces"),
        ("[process]\nlog_levle = 'info'\n", "log_levle"),
        ("[process]\nlog_level = 'loud'\n", "process.log_level"),
        ("[process]\ndrain_timeout_s = -1\n", "process.drain_timeout_s"),
        ("[s3]\nregoin = 'eu'\n", "regoin"),
        ("[s3.objects]\nsegment_byte = 1\n", "segment_byte"),
        ("[s3]\nbody_timeout_s = -1\n", "s3.body_timeout_s"),
        ("[nbd]\nconnections_max = 0\n", "nbd.connections_max"),
        ("[device]\nindex_engine = 'rocks'\n", "device.index_engine"),
        ("[blobs]\nspace_short_share = 2.0\n", "blobs.space_short_share"),
        ("[s3.objects]\nsegment_bytes = 33554432\n", "at most 16777216"),
        ("[s3.objects]\nwrite_memory_bytes = 1048576\n", "write_memory_bytes"),
        ("[s3.objects]\nread_memory_bytes = 1048576\n", "read_chunk_bytes"),
        ("[device]\nsegment_bytes = 1048576\n", "device.segment_bytes"),
        ("[volumes]\nmin_in_sync = 4\n", "min_in_sync"),
        ("[care]\norphan_grace_s = 172799.0\n", "at least 172800"),
        ("[volumes]\ntakeover_s = 8.0\n", "two holders"),
        ("not toml", "n1.toml"),
    ],
)
def test_a_mistake_is_named_with_its_file(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(Invalid, match=message) as caught:
        settings_of(tmp_path, content)
    assert "n1.toml" in caught.value.message


def test_a_node_never_set_up_has_no_settings(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="never set up"):
        read_settings(Layout.at(tmp_path), N1)


def rows_of(table: str, settings: Any) -> list[tuple[str, str]]:
    """(table, setting) of everything that can be set."""
    rows = []
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, msgspec.Struct):
            rows += rows_of(f"{table}.{name}" if table else name, value)
        else:
            rows.append((table, name))
    return rows


def test_every_setting_is_documented_and_nothing_else() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    _, _, reference = text.partition("## Settings reference\n")
    documented = []
    table = ""
    for line in reference.splitlines():
        if line.startswith("### `["):
            table = line[6:-2]
        elif line.startswith("| `"):
            documented.append((table, line[3:].partition("`")[0]))
    assert documented == rows_of("", NodeSettings())
