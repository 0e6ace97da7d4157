"""Sizes of DeepSpeed's ZeRO buffers: what ds_config.json carries and what the memory model charges for."""

from typing import NamedTuple

from toolkit.planner.trained import Trained
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload


class Buckets(NamedTuple):
    """Sizes in elements."""

    reduce: int
    """Gradients reduced at a time (stages 1 to 3)."""
    allgather: int
    """Updated weights gathered at a time (stages 1 and 2)."""
    prefetch: int
    """Weights fetched ahead of use (stage 3)."""
    persistence: int
    """Weights smaller than this stay on every rank (stage 3)."""
    max_live: int
    """Gathered weights held at a time, and how far ahead a reuse keeps them (stage 3)."""
    sub_group: int
    """Weights updated at a time (stage 3)."""


DEEPSPEED_DEFAULTS = Buckets(
    reduce=500_000_000,
    allgather=500_000_000,
    prefetch=50_000_000,
    persistence=100_000,
    max_live=1_000_000_000,
    sub_group=1_000_000_000,
)
"""deepspeed/runtime/zero/config.py of 0.19.8."""


def trainable_params(model: ModelSpec, workload: Workload) -> int:
    """Number of weights that get a gradient."""
    trained = Trained.of(model, workload)
    rank, targets = workload.lora_rank, workload.adapted
    adapters = 0 if workload.method == "full" else model.num_trainable_params("lora", rank, targets=targets)
    if workload.method != "full" and "lm_head" in targets:
        adapters += rank * (model.hidden_size + model.vocab_size)
    return adapters + (trained.total if trained else model.num_params if workload.method == "full" else 0)


def zero_buckets(model: ModelSpec, workload: Workload) -> Buckets:
    """The bucket sizes that ds_config.json gets."""
    return sized_buckets(model.hidden_size, model.num_params, trainable=trainable_params(model, workload))


def sized_buckets(hidden_size: int, num_params: int, *, trainable: int) -> Buckets:
    """Bucket sizes that follow the model, so that a small one does not pay for DeepSpeed's half-gigabyte defaults.

    Reduce and all-gather take about one layer (12 x hidden_size^2 weights), at most DeepSpeed's default and never more
    than there is to send; prefetch and persistence follow the rule of accelerate and transformers for "auto".
    """
    hidden_sq = hidden_size**2
    layer = min(12 * hidden_sq, 500_000_000, trainable)
    return Buckets(
        # Even: stage_1_and_2.py asserts that buckets are a multiple of nccl_start_alignment_factor = 2.
        reduce=layer + layer % 2,
        allgather=layer + layer % 2,
        prefetch=int(0.9 * hidden_sq),
        persistence=10 * hidden_size,
        max_live=min(1_000_000_000, num_params),
        sub_group=1_000_000_000,
    )
