"""ds_configs/ in the repository is what the scenarios give, byte for byte."""

import shlex
from pathlib import Path

import pytest

from toolkit.emitters.scenarios import SCENARIOS, Scenario, write_ds_configs

COMMITTED = Path(__file__).parents[3] / "ds_configs"


def test_the_committed_files_are_up_to_date(tmp_path: Path) -> None:
    written = {file.name: file.read_bytes() for file in write_ds_configs(tmp_path)}
    committed = {file.name: file.read_bytes() for file in COMMITTED.iterdir()}
    assert committed.keys() == written.keys()
    for name, content in written.items():
        assert committed[name] == content, f"{name} differs: run `python -m toolkit.emitters.scenarios ds_configs`"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.file)
def test_the_file_name_says_what_the_plan_is(scenario: Scenario) -> None:
    made = scenario.plan()
    words = scenario.file.removesuffix(".json").split("_")
    assert made.workload.precision in words or "offload" in words
    if words[0].startswith("zero"):
        assert words[0] == f"zero{made.strategy.zero_stage}"
    assert ("lora" in words) == (made.workload.method == "lora")
    assert ("offload" in words) == (made.strategy.offload != "none")
    assert ("cpu" in words) == (made.cluster.device.kind == "cpu")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.file)
def test_the_line_names_everything_that_was_decided(scenario: Scenario) -> None:
    shorter = {"zero_stage": "zero", "activation_checkpointing": "checkpointing"}
    words = shlex.split(scenario.command())
    assert words[:2] == ["toolkit", "plan"]
    for name, value in scenario.fixed.given().items():
        assert words[words.index(f"--{shorter.get(name, name)}") + 1] == str(value)


def test_every_stage_precision_and_method_is_there() -> None:
    plans = [scenario.plan() for scenario in SCENARIOS]
    assert {made.strategy.zero_stage for made in plans} == {0, 1, 2, 3}
    assert {made.strategy.offload for made in plans} == {"none", "optimizer", "all"}
    assert {made.workload.precision for made in plans} == {"fp32", "bf16", "fp16"}
    assert {made.workload.method for made in plans} == {"full", "lora"}
