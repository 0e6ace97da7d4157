"""Plans count what trains: states of frozen weights cost nothing, embedding and head beside adapters do."""

import pytest

import toolkit
from toolkit.errors import SpecError
from toolkit.planner.memory.states import States, states_of
from toolkit.planner.plan import Plan
from toolkit.planner.resolve import setup_of
from toolkit.specs.model import ModelSpec

MODEL = ModelSpec.resolve("llama-3.1-8b")
WORK = {"seq_len": 1024, "global_batch": 8, "micro_batch": 1, "activation_checkpointing": "full"}
EMBEDDING = 128_256 * 4096


def plan(**choices: object) -> Plan:
    return toolkit.plan(MODEL, "8xH100-80GB", **{**WORK, "zero_stage": 1, **choices})


def states(made: Plan, stage: int = 0) -> States:
    setup = setup_of(made.model, made.cluster, workload=made.workload, strategy=made.strategy)
    return states_of(setup, stage)


def test_frozen_weights_have_no_states() -> None:
    every, last = states(plan(engine="zero")), states(plan(engine="zero", train_only=["model.layers.3[01].*"]))
    assert (every.trainable, every.optimizer) == (MODEL.num_params, 12 * MODEL.num_params / 8)
    trained = 2 * MODEL.layer_params
    assert (last.trainable, last.gradients, last.optimizer) == (trained, 2 * trained, 12 * trained / 8)
    assert last.weights == every.weights


def test_trained_ends_have_states_and_are_no_copies() -> None:
    made = plan(method="lora", modules_to_save=["embed_tokens", "lm_head"])
    adapters, ends = states(plan(method="lora")), states(made)
    assert ends.trainable - adapters.trainable == 2 * EMBEDDING
    assert ends.optimizer - adapters.optimizer == 12 * 2 * EMBEDDING / 8
    assert ends.weights == adapters.weights
    assert made.memory.total_bytes > plan(method="lora").memory.total_bytes + 12 * 2 * EMBEDDING / 8


def test_offloaded_states_are_those_of_what_trains() -> None:
    offloaded = {"zero_stage": 2, "offload": "optimizer"}
    every, half = plan(**offloaded), plan(**offloaded, freeze=["model.layers.[0-9].*", "model.layers.1[0-5].*"])
    trained = MODEL.num_params - 16 * MODEL.layer_params
    assert half.memory.host_bytes == pytest.approx(every.memory.host_bytes * trained / MODEL.num_params, rel=1e-6)


def test_stages_count_their_own() -> None:
    made = plan(pp=2, stages=[16, 16], freeze=["model.layers.[0-9].*", "model.layers.1[0-4].*", "*embed_tokens*"])
    first, last = states(made), states(made, 1)
    assert first.trainable == MODEL.layer_params
    assert last.trainable == 16 * MODEL.layer_params + EMBEDDING + 4096


def test_a_stage_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^stages=16,16: freeze and train_only leave stage 0 nothing to train; "):
        toolkit.plan(MODEL, "8xH100-80GB", **WORK, pp=2, stages=[16, 16], train_only=["model.layers.3?.*"])


def test_new_tokens_make_the_model_larger() -> None:
    made = plan(new_tokens=["<|a|>", "<|b|>"], vocab_multiple=64)
    assert (made.model.vocab_size, made.model.added_rows) == (128_320, 64)
    assert made.model.num_params == MODEL.num_params + 2 * 64 * 4096
