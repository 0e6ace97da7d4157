"""What each engine holds where others hold less: logits under tensor parallelism, gathers, gradients in a warm-up."""

from typing import Any

import pytest

from toolkit.planner.memory import estimate_memory
from toolkit.planner.memory.activations import kept_bytes, layer_bytes, logits_bytes, score_bytes, working_bytes
from toolkit.planner.memory.buffers import buffer_bytes, deepspeed_elements
from toolkit.planner.memory.estimate import instants
from toolkit.planner.memory.host import HOST_FACTOR, offloaded_bytes
from toolkit.planner.memory.states import states_of
from toolkit.planner.profile import profiles
from toolkit.planner.resolve import setup_of
from toolkit.planner.setup import NF4_BYTES, Setup
from toolkit.planner.strategy import Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

CLUSTER = ClusterSpec.resolve("16x8xH100-80GB")
LLAMA_8B, LLAMA_70B = ModelSpec.resolve("llama-3.1-8b"), ModelSpec.resolve("llama-3.1-70b")


def setup(model: ModelSpec = LLAMA_8B, *, work: Workload | None = None, **given: Any) -> Setup:
    layout = {"dp": 8} | {name: given.pop(name) for name in ("dp", "tp", "pp", "sp", "cp") if name in given}
    fields = {"zero_stage": 1, "micro_batch": 1, "grad_accum": 1, "layout": layout, **given}
    workload = work or Workload(seq_len=4096, global_batch=128)
    return setup_of(model, CLUSTER, workload=workload, strategy=Strategy.model_validate(fields))


def test_logits_are_divided_where_the_loss_works_on_parts() -> None:
    all_logits = LLAMA_8B.vocab_size * 4096
    for one in (setup(tp=4), setup(tp=4, engine="mcore"), setup(tp=4, pp=2, engine="pipeline")):
        assert logits_bytes(one, one.pp - 1) == one.profile.memory.logits_bytes * all_logits / 4
    whole = one.profile.model_copy(update={"memory": one.profile.memory.model_copy(update={"vocab_parallel": False})})
    assert logits_bytes(one._replace(profile=whole), 1) == one.profile.memory.logits_bytes * all_logits


def test_behind_the_first_backward_of_a_warm_up_stand_gradients_and_the_other_micro_batches() -> None:
    one = setup(LLAMA_70B, engine="pipeline", pp=8, dp=16, grad_accum=6, work=Workload(seq_len=1024, global_batch=96))
    states = states_of(one, 0)
    # Six micro-batches were begun, five wait while the gradients of the first are whole.
    least = states.gradients + kept_bytes(one, 0) * 5 / 6 + working_bytes(one) + buffer_bytes(one, 0, states)
    assert max(instant.size for instant in instants(one, 0, states)) == pytest.approx(least)
    assert estimate_memory(one, 0).instant == "end of backward"


def test_a_parameter_is_gathered_whole_whatever_max_live_says() -> None:
    one = setup(ModelSpec.resolve("llama-3.1-405b"), zero_stage=3, dp=128)
    elements = deepspeed_elements(one, states_of(one, 0))
    assert elements["gathered weights"] == 128256 * 16384 > one.buckets.max_live
    assert elements["reduce bucket or largest gradient"] == 128256 * 16384 > one.buckets.reduce


def test_stage_3_copies_gradients_to_fp32_a_sub_group_at_a_time() -> None:
    one = setup(LLAMA_8B, zero_stage=3, dp=1)
    states = states_of(one, 0)
    step = instants(one, 0, states)[-1]
    assert step.optimizer == 4 * one.buckets.sub_group < 4 * states.updated
    partition = setup(LLAMA_8B, zero_stage=2, dp=1)
    assert instants(partition, 0, states)[-1].optimizer == 4 * states.updated


@pytest.mark.parametrize(("method", "precision", "num_bytes"), [("lora", "fp32", 4), ("lora", "bf16", 2)])
def test_frozen_embeddings_have_the_compute_type(method: str, precision: str, num_bytes: int) -> None:
    work = Workload.model_validate({"seq_len": 512, "global_batch": 8, "method": method, "precision": precision})
    one = setup(work=work)
    adapters = LLAMA_8B.num_trainable_params("lora", 16)
    assert states_of(one, 0).weights == pytest.approx(num_bytes * (LLAMA_8B.num_params + adapters))


def test_trained_embeddings_are_copied_and_cost_gradients_and_states() -> None:
    work = Workload(seq_len=512, global_batch=8, method="lora")
    plain = setup(work=work, zero_stage=0, dp=1)
    added = states_of(plain._replace(trained_ends=True), 0), states_of(plain, 0)
    ends = LLAMA_8B.embedding_params + LLAMA_8B.head_params + LLAMA_8B.hidden_size
    assert sum(added[0][:3]) - sum(added[1][:3]) == pytest.approx((2 + 2 + 12) * ends)


def test_offloaded_nf4_weights_stay_small_on_the_host() -> None:
    work = Workload(seq_len=512, global_batch=8, method="qlora")
    one = setup(LLAMA_70B, work=work, zero_stage=3, offload="all")
    layers = LLAMA_70B.num_layers * LLAMA_70B.layer_params
    weights = NF4_BYTES * layers + 2 * (LLAMA_70B.num_params - layers)
    adapters = LLAMA_70B.num_trainable_params("lora", 16)
    assert offloaded_bytes(one)[0] == int(HOST_FACTOR * (16 * adapters + weights) / CLUSTER.num_nodes)


def test_sequence_parallel_sums_are_made_in_fp32() -> None:
    alone, divided = setup(zero_stage=2), setup(zero_stage=2, sp=8, dp=1)
    reduce = divided.buckets.reduce
    assert deepspeed_elements(divided, states_of(divided, 0))["fp32 copy of a bucket"] == 2 * reduce
    assert "fp32 copy of a bucket" not in deepspeed_elements(alone, states_of(alone, 0))


def test_a_padded_micro_batch_repeats_keys_to_all_heads() -> None:
    # 8 of 32 heads have keys of their own: 4 bytes x (4096 - 1024) more per token, in micro-batches of more than one.
    single, several = layer_bytes(setup(micro_batch=1)), layer_bytes(setup(micro_batch=2))
    assert several / 2 - single == 4096 * 4 * (4096 - 1024)
    mcore = setup(engine="mcore", micro_batch=2)
    assert layer_bytes(mcore) == 2 * layer_bytes(setup(engine="mcore"))


def test_selective_checkpointing_drops_the_scores() -> None:
    # Korthikanti et al. (2205.05198), section 5: of 34 s b h + 5 a s^2 b the second part is recomputed.
    kept = setup(engine="mcore", tp=8, dp=2)._replace(flash_attention=False)
    selective = kept._replace(checkpointing="selective")
    assert kept_bytes(kept, 0) - kept_bytes(selective, 0) == pytest.approx(LLAMA_8B.num_layers * score_bytes(kept))
    assert score_bytes(kept) == 5 * 32 * 4096**2 / 8
    assert working_bytes(selective) - working_bytes(kept) == score_bytes(kept)


def test_what_plans_and_what_is_scored_share_their_laws() -> None:
    for engine in ("zero", "pipeline", "mcore"):
        one = setup(engine=engine)
        law = one.profile.memory
        assert (one.states.weight, one.states.grad, one.states.optimizer) == (
            law.weight_bytes,
            law.grad_bytes,
            law.optimizer_bytes,
        )


def test_the_fullest_stage_is_among_those_that_are_looked_at() -> None:
    for pp, accum in ((2, 1), (4, 3), (8, 6), (8, 64)):
        one = setup(LLAMA_70B, engine="pipeline", pp=pp, dp=16, grad_accum=accum)
        assert estimate_memory(one).total_bytes == max(estimate_memory(one, s).total_bytes for s in range(pp))


def test_every_fitted_constant_is_one_of_its_law() -> None:
    for profile in profiles().values():
        for name in profile.memory.fitted:
            found: Any = profile.memory
            for part in name.split("."):
                found = getattr(found, part)
            assert isinstance(found, float), name
