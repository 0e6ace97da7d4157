"""Where megatron-core 0.16.1 is silently wrong: each trap is sprung here, and the engine is shown to keep out of it.

Should a release mend one of them, its test fails, and what keeps the engine out of it can go.
"""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.gpt import GPTModel
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import toolkit
from procs import run_ranks
from ranks.equality import assert_equal, assert_same_weights, trained
from ranks.on_megatron import flags_of, train_with, train_with_batched_sends
from ranks.reference import reference_run
from ranks.settings import GROUPS
from ranks.test_megatron_parity import LAYOUTS, LOSS, NORM, ODD_VOCABULARY, WEIGHTS, write
from ranks.tiny import write_model
from toolkit.engines.base import StepResult

pytestmark = pytest.mark.ranks

MODULES = "toolkit.engines.mcore"


def run_wrong(body: Any, folder: Path, layout: str, *args: Any) -> list[StepResult]:
    steps: list[StepResult] = run_ranks(body, LAYOUTS[layout][0], folder, *args)[0]
    return steps


def test_without_marks_the_norm_is_of_a_part(tmp_path: Path, even: Path) -> None:
    mark = f"{MODULES}.held.set_tensor_model_parallel_attributes"
    steps = run_wrong(train_with, write(tmp_path / "run", even, "tp2-sequence"), "tp2-sequence", mark, None)
    one = reference_run(even).steps[0]
    assert steps[0].loss == pytest.approx(one.loss, abs=LOSS)
    assert steps[0].grad_norm < 0.95 * one.grad_norm


def test_what_fills_the_vocabulary_up_would_count_in_the_loss(tmp_path: Path, odd: Path) -> None:
    own, theirs = f"{MODULES}.model.Llama.compute_language_model_loss", GPTModel.compute_language_model_loss
    steps = run_wrong(train_with, write(tmp_path / "run", odd, "tp2-sequence"), "tp2-sequence", own, theirs)
    assert steps[0].loss - reference_run(odd, vocab_size=ODD_VOCABULARY).steps[0].loss > 1e-3


def test_batched_sends_mix_up_two_interleaved_stages(tmp_path: Path, even: Path) -> None:
    folder = write(tmp_path / "run", even, "pp2-vpp2", micro_batch=1)
    assert all(flags["batch_p2p_comm"] is False for flags in run_ranks(flags_of, 2, folder))
    one = reference_run(even).steps[0]
    try:
        steps = run_wrong(train_with_batched_sends, folder, "pp2-vpp2")
    except AssertionError:
        return  # gloo may refuse them: loud is well
    assert abs(steps[0].grad_norm / one.grad_norm - 1) > NORM


def test_nothing_is_freed_that_gloo_still_sends(tmp_path: Path, even: Path) -> None:
    """Wrong now and then only, so what is tested is that it is off."""
    for flags in run_ranks(flags_of, 2, write(tmp_path / "run", even, "pp2-vpp2")):
        assert flags["deallocate_pipeline_outputs"] is False
        assert flags["overlap_p2p_comm"] is False


def test_rotations_are_stretched_by_the_models_own_numbers(tmp_path: Path, stretched: Path) -> None:
    """Megatron has those of Llama 3.x written into it; test_megatron_parity trains with others."""

    def frequencies(model: Path) -> torch.Tensor:
        return LlamaRotaryEmbedding(AutoConfig.from_pretrained(model)).inv_freq

    def megatrons(model: Path) -> torch.Tensor:
        head_dim = AutoConfig.from_pretrained(model).head_dim
        embedding = RotaryEmbedding(
            head_dim, 1.0, rotary_base=10_000, rope_scaling=True, rope_scaling_factor=8.0, use_cpu_initialization=True
        )
        numbers: torch.Tensor = embedding.inv_freq
        return numbers

    own = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    llama3 = write_model(tmp_path / "llama3", rope={"rope_type": "llama3", "rope_theta": 10_000.0, **own})
    torch.testing.assert_close(megatrons(llama3), frequencies(llama3), rtol=1e-6, atol=0)
    assert float((megatrons(stretched) / frequencies(stretched)).max()) > 2


def test_groups_decay_and_learn_as_the_recipe_says(tmp_path: Path, even: Path) -> None:
    """Megatron's multipliers act through its own scheduler only: without it norms would decay."""
    run = trained(write(tmp_path / "run", even, "tp2-pp2", optimizer=GROUPS))
    one = reference_run(even, grouped=True)
    assert_equal(run.steps, one.steps, loss=LOSS, norm=NORM)
    assert_same_weights(run.weights, one.model, within=WEIGHTS)


def test_no_checkpoint_of_megatrons_own_is_written() -> None:
    """Its `save` spawns a process that runs the main script again, and its loader shares a counter among tensors."""
    for path in Path(toolkit.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert not [name for name in named if "dist_checkpointing" in name], path
