from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pinfold.admin.merge import merge


def exposition(seed: int) -> str:
    registry = CollectorRegistry()
    Gauge("plain", "No labels.", registry=registry).set(seed)
    Counter("requests", "Of an operation.", ["operation"], registry=registry).labels(
        'odd "name"\\ {x}'
    ).inc(seed)
    Histogram("took_seconds", "Time.", registry=registry, buckets=(1.0,)).observe(seed)
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@given(st.lists(st.text(max_size=8), min_size=1, max_size=4, unique=True))
def test_every_sample_is_kept_and_labelled_with_its_node(nodes: list[str]) -> None:
    texts = {node: exposition(number) for number, node in enumerate(nodes)}
    merged = samples(merge(texts))
    expected = {
        (name, labels | {("node", node)}): value
        for node, text in texts.items()
        for (name, labels), value in samples(text).items()
    }
    assert merged == expected


def test_a_metric_is_described_once_and_its_samples_stand_together() -> None:
    lines = merge({"n1": exposition(1), "n2": exposition(2)}).splitlines()
    assert lines.count("# TYPE plain gauge") == 1
    at = lines.index("# TYPE plain gauge")
    assert lines[at + 1 : at + 3] == ['plain{node="n1"} 1.0', 'plain{node="n2"} 2.0']


def test_nothing_merges_to_nothing() -> None:
    assert merge({}) == ""


def test_a_sample_with_empty_labels_gets_only_the_node() -> None:
    assert merge({"n1": "up{} 1.0\n"}) == 'up{node="n1"} 1.0\n'


def test_what_is_no_sample_is_left_out() -> None:
    texts = {"n": 'a 1\nnonsense\n{} 2\n 3\nb{x="y" 4\nc{} 5\n# TYPE \n\x00d 6\ne{z="{ }"} 7\n'}
    merged = merge(texts)
    assert [line for line in merged.splitlines() if not line.startswith("#")] == [
        'a{node="n"} 1',
        'c{node="n"} 5',
        'e{node="n",z="{ }"} 7',
    ]
