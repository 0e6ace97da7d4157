"""Recipe: what is written is read back, and contradictions are refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolkit.errors import SpecError
from toolkit.specs.communication import CommunicationConfig, thin_columns
from toolkit.specs.data import DataConfig
from toolkit.specs.evaluation import EvaluationConfig
from toolkit.specs.lora import LoraConfig
from toolkit.specs.optimizer import OptimizerConfig
from toolkit.specs.recipe import Recipe
from toolkit.specs.schedule import ScheduleConfig
from toolkit.specs.workload import Workload

SMALLEST: dict[str, Any] = {
    "model": "tinyllama",
    "workload": {"seq_len": 512, "global_batch": 8},
    "data": {"train": "data.jsonl"},
}

# Names of files and columns: any text but surrogates, which no UTF-8 file holds.
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
parts = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-12, 1e3)

recipes = st.builds(
    Recipe,
    model=names,
    workload=st.builds(
        Workload,
        seq_len=st.integers(1, 10**7),
        global_batch=st.integers(1, 10**7),
        method=st.sampled_from(["full", "lora"]),
        lora_rank=st.integers(1, 512),
        precision=st.sampled_from(["fp32", "bf16", "fp16"]),
    ),
    data=st.builds(
        DataConfig,
        train=names,
        held_out=st.none() | names.map("held out of {}".format),  # what is trained on is refused
        held_out_fraction=parts,
        hub_split=names,
        format=st.none() | st.sampled_from(["alpaca", "messages", "text"]),
        columns=st.dictionaries(names, names, max_size=3),
        template=st.none() | st.sampled_from(["alpaca", "llama3"]),
    ),
    epochs=st.none() | positive,
    optimizer=st.builds(OptimizerConfig, learning_rate=positive, beta2=parts, eps=positive, weight_decay=parts),
    schedule=st.builds(ScheduleConfig, warmup_ratio=st.none() | parts, min_ratio=parts),
    lora=st.builds(
        LoraConfig,
        alpha=positive,
        dropout=parts,
        rslora=st.booleans(),
        targets=st.lists(names, min_size=1, max_size=3).map(tuple),
    ),
    evaluation=st.builds(EvaluationConfig, exact_match_samples=st.integers(0, 1000)),
    trackers=st.sampled_from([(), ("tensorboard",), ("wandb", "mlflow")]),
    seed=st.integers(0, 2**31),
)


def refusal(**changes: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        Recipe.parse({**SMALLEST, **changes}, source="recipe.yaml")
    return str(caught.value).splitlines()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(recipe=recipes)
def test_what_is_saved_is_loaded(recipe: Recipe, tmp_path: Path) -> None:
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe


def test_saved_file_explains_every_value(tmp_path: Path) -> None:
    recipe = Recipe.parse(SMALLEST, source="recipe.yaml")
    recipe.save(tmp_path / "recipe.yaml")
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == recipe.model_dump(mode="json", exclude_none=True)
    assert all("  # " in line and not line.endswith("# ") for line in text.splitlines())
    assert "  learning_rate: 2.0e-05  # Peak learning rate, reached at the end of the warm-up." in text


def test_numbers_as_people_write_them() -> None:
    # YAML 1.1 reads 2e-5 as text: it wants a dot and a sign.
    recipe = Recipe.parse({**SMALLEST, **yaml.safe_load("optimizer: {learning_rate: 2e-5}")}, source="recipe.yaml")
    assert recipe.optimizer.learning_rate == 2e-5


def test_contradictions_are_refused() -> None:
    assert refusal(epochs=2, max_steps=100) == ["recipe.yaml: epochs and max_steps are both given; keep one of them"]
    lines = refusal(schedule={"warmup_steps": 5, "warmup_ratio": 0.1})
    assert lines == ["recipe.yaml: `schedule`: warmup_steps and warmup_ratio are both given; keep one of them"]


def test_an_optimizer_refuses_what_it_does_not_look_at() -> None:
    work = {**SMALLEST["workload"], "optimizer": "lion"}
    assert refusal(workload=work, optimizer={"momentum": 0.8}) == [
        "recipe.yaml: `optimizer`: momentum given, lion looks at beta1, beta2, weight_decay only; leave it out"
    ]
    lines = refusal(clipping={"kind": "agc", "zscore": 2.0})
    assert lines == ["recipe.yaml: `clipping`: zscore is of kind zclip, kind is agc; leave it out"]


@pytest.mark.parametrize(
    ("communication", "words"),
    [
        ({"ratio": 0.1}, "ratio is of compression topk, compression is none"),
        ({"compression": "topk", "rank": 8}, "rank is of compression powersgd, compression is topk"),
        (
            {"compression": "fp16", "full_steps": 9},
            "full_steps is of compression powersgd or topk, compression is fp16",
        ),
        ({"local_steps": 8, "full_steps": 9}, "full_steps is of compression powersgd or topk, compression is none"),
    ],
    ids=str,
)
def test_options_of_another_communication(communication: dict[str, Any], words: str) -> None:
    assert refusal(communication=communication) == [f"recipe.yaml: `communication`: {words}; leave it out"]


def test_communication_of_recipes_that_were_written_out_before() -> None:
    """They hold the defaults of then, of options that nothing looks at too."""
    then = {"rank": 4, "full_steps": 0}
    assert CommunicationConfig.model_validate({"compression": "none", **then}) == CommunicationConfig()
    kept = CommunicationConfig.model_validate({"compression": "powersgd", **then})
    assert (kept.rank, kept.full_steps) == (4, 0)


@pytest.mark.parametrize(
    ("shape", "rank", "thin"),
    [
        ((256, 256), None, 24),
        ((4096, 14336), None, 96),
        ((172, 64), None, 15),
        ((32, 64), None, 8),
        ((256, 256), 4, 4),
        ((8, 64), 4, 0),  # 288 numbers for 512: not half
        ((256, 1), None, 0),
    ],
    ids=str,
)
def test_columns_of_thin_matrices(shape: tuple[int, int], rank: int | None, thin: int) -> None:
    assert thin_columns(*shape, rank) == thin


def test_updates_of_single_replicas_are_not_measured() -> None:
    (line,) = refusal(schedule={"kind": "relative_change"}, communication={"local_steps": 8})
    assert "use another schedule, or local_steps 1" in line
    compressed = {"schedule": {"kind": "relative_change"}, "communication": {"compression": "topk"}}
    assert Recipe.parse({**SMALLEST, **compressed}, source="recipe.yaml").communication.compression == "topk"


@pytest.mark.parametrize(
    ("name", "given", "resolved"),
    [
        ("adamw", {}, (0.9, 0.999, 0.9)),
        ("lion", {}, (0.9, 0.99, 0.9)),
        ("lion", {"beta2": 0.999}, (0.9, 0.999, 0.9)),
        ("soap", {"beta1": 0.9}, (0.9, 0.95, 0.9)),
        ("muon", {}, (0.9, 0.999, 0.95)),
    ],
)
def test_numbers_of_an_optimizer_are_resolved(
    tmp_path: Path, name: str, given: dict[str, float], resolved: tuple[float, ...]
) -> None:
    work = {**SMALLEST["workload"], "optimizer": name}
    recipe = Recipe.parse({**SMALLEST, "workload": work, "optimizer": given}, source="recipe.yaml")
    assert (recipe.optimizer.beta1, recipe.optimizer.beta2, recipe.optimizer.momentum) == resolved
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe


def test_adapters_on_nothing_are_refused() -> None:
    assert refusal(lora={"targets": []}) == [
        "recipe.yaml: `lora.targets`: is empty, so that nothing would train; name one or more of q_proj, k_proj, "
        "v_proj, o_proj, gate_proj, up_proj, down_proj"
    ]


def test_the_planned_adapters_are_the_recipes() -> None:
    work = {**SMALLEST["workload"], "method": "lora", "lora_targets": ["q_proj", "v_proj"]}
    recipe = Recipe.parse({**SMALLEST, "workload": work}, source="recipe.yaml")
    assert recipe.lora.targets == ("q_proj", "v_proj")
    again = Recipe.parse(
        {**SMALLEST, "workload": work, "lora": {"targets": ["v_proj", "q_proj"]}}, source="recipe.yaml"
    )
    assert again.lora.targets == ("v_proj", "q_proj")
    assert refusal(workload=work, lora={"targets": ["q_proj"]}) == [
        "recipe.yaml: `lora`: targets are q_proj, and workload.lora_targets, for which the run was planned, "
        "q_proj, v_proj; plan again with this recipe, or take workload.lora_targets out"
    ]
    full = {**work, "method": "full"}
    assert refusal(workload=full) == [
        "recipe.yaml: `workload`: lora_targets goes with adapters, method is full; use method=lora, or leave it out"
    ]


def test_faults_of_all_parts_come_at_once() -> None:
    lines = refusal(
        workload={"seq_len": 0, "global_batch": 8, "metod": "lora"},
        optimizer={"learning_rate": -1},
        trackers=["wandb", "excel"],
        optimiser={},
    )
    assert len(lines) == 5
    for words in (
        "`workload.seq_len` is 0",
        "`workload.metod`; did you mean `method`?",
        "`optimizer.learning_rate` is -1",
        "`trackers.1` is 'excel'",
        "`optimiser`; did you mean `optimizer`?",
    ):
        assert any(words in line for line in lines), words


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"epochs": 0}, "`epochs`"),
        ({"max_steps": 0}, "`max_steps`"),
        ({"max_steps": 1.5}, "`max_steps`"),
        ({"data": {"train": "x", "held_out_fraction": 1.0}}, "`data.held_out_fraction`"),
        ({"data": {"train": "x", "format": "csv"}}, "`data.format`"),
        ({"workload": {"seq_len": 8, "global_batch": 8, "precision": "int8"}}, "`workload.precision`"),
        ({"optimizer": {"eps": float("inf")}}, "`optimizer.eps`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_values_out_of_range(changes: dict[str, Any], place: str) -> None:
    (line,) = refusal(**changes)
    assert place in line
