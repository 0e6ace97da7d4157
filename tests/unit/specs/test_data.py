"""`data.train` in its forms: one name, or a list of sources with settings of their own."""

from typing import Any

import pytest

from toolkit.errors import SpecError
from toolkit.specs.data import DataConfig, DataSource


def parsed(train: Any, **more: Any) -> DataConfig:
    return DataConfig.parse({"train": train, **more}, source="r")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("a.jsonl", "a.jsonl"),
        (["a.jsonl"], "a.jsonl"),
        (["a.jsonl", {"source": "b.jsonl"}], ["a.jsonl", "b.jsonl"]),
        ({"source": "a.jsonl", "weight": 0.5}, [{"source": "a.jsonl", "weight": 0.5}]),
        (["a.jsonl", {"source": "b", "weight": 2}], ["a.jsonl", {"source": "b", "weight": 2.0}]),
    ],
)
def test_what_is_written_is_as_short_as_what_was_given(given: Any, written: Any) -> None:
    config = parsed(given)
    assert config.model_dump(mode="json")["train"] == written
    assert parsed(written) == config


def test_a_source_has_what_holds_for_all_unless_it_says_otherwise() -> None:
    own = {"source": "b", "columns": {"text": "body"}, "hub_split": "test"}
    config = parsed(["a", own], held_out="c", template="plain", columns={"prompt": "q"}, format="text")
    first, second = config.sources
    shared = {"hub_split": "train", "format": "text", "columns": {"prompt": "q"}, "template": "plain"}
    assert first == DataSource(source="a", **shared)
    assert second == DataSource(source="b", **{**shared, "columns": {"text": "body"}, "hub_split": "test"})
    assert config.held_out_source == DataSource(source="c", **shared)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "r: `train`: names no source; give a file, a folder or a hub id"),
        (3, "r: `train` is 3: needs a list, as [a, b]"),
        ("https://x/a.jsonl", "r: `train`: is a URL; download what it names"),
        (["a", "https://x/a.jsonl"], "r: `train.1.source`: is a URL"),
        ([{"source": "a", "weigth": 2}], "r: unknown key `train.0.weigth`; did you mean `weight`?"),
        ([{"source": "a", "weight": 0}], "r: `train.0.weight` is 0: input should be greater than 0"),
        ([{"weight": 1}], "r: key `train.0.source` is missing"),
        (["a", {"source": "a", "weight": 2}], "r: train names a twice; name it once, with a `weight`"),
        (["a", {"source": "b", "name": "a"}], "r: train has two sources called a; give each a `name` of its own"),
    ],
)
def test_faults_in_one_line(train: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parsed(train)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(message)
