"""The inputs of a first run: chosen kinds of questions, and a model of the asked size."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from toolkit.demo.inputs import write_demo_inputs
from toolkit.demo.tasks import demo_rows
from toolkit.errors import SpecError


def test_kinds_and_sizes_are_as_asked(tmp_path: Path) -> None:
    inputs = write_demo_inputs(tmp_path / "new", kinds=["parity", "initials"], hidden_size=32, num_layers=1)
    rows = [json.loads(line) for path in inputs[1:] for line in path.read_text().splitlines()]
    assert {row["task"] for row in rows} == {"parity", "initials"}
    config = AutoConfig.from_pretrained(inputs.model)
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (32, 64, 1)


def test_a_kind_alone_has_the_questions_that_it_has_among_all() -> None:
    everything = {tuple(row.values()) for row in demo_rows()[0]}
    assert {tuple(row.values()) for row in demo_rows(kinds=["parity"])[0]} <= everything


def test_an_unknown_kind_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no kind of question 'poems'; there are addition, "):
        write_demo_inputs(tmp_path / "new", kinds=["poems"])
    assert not (tmp_path / "new").exists()
