"""What a framework keeps in memory: the constants of the memory model.

Activation constants are bytes per token and element of a width, for one decoder layer, in 16-bit compute; in fp32 they
double. They are counted in the framework's code tensor by tensor wherever `fitted` does not name them.
"""

from typing import Literal

from pydantic import Field

from toolkit.specs.base import Spec
from toolkit.units import GiB


class LayerLaw(Spec):
    """Bytes that one decoder layer keeps for its backward pass per token and element of each width."""

    hidden: float = Field(ge=0)
    """Norms and residual stream: hidden_size; split by tensor parallelism only where it is sequence parallel."""
    query: float = Field(ge=0)
    """Queries, attention output: num_heads x head_dim."""
    key_value: float = Field(ge=0)
    """Keys and values: num_kv_heads x head_dim."""
    ffn: float = Field(ge=0)
    """Inside the MLP: intermediate_size."""
    gathered_hidden: float = Field(default=0.0, ge=0)
    """Inputs of tensor-parallel layers kept whole on every rank: hidden_size, never split."""


class MemoryLaw(Spec):
    """Constants of one framework's bytes."""

    source: str
    """Where the constants come from, or how they were counted."""
    fitted: tuple[str, ...] = ()
    """Names of the constants below that were fitted to measured runs."""
    weight_bytes: float = Field(default=2.0, gt=0)
    """Bytes of a trained weight in 16-bit training, as held from step to step."""
    grad_bytes: float = Field(default=2.0, ge=0)
    """Bytes of an accumulated gradient."""
    optimizer_bytes: float = Field(default=12.0, ge=0)
    """Bytes of master weight and moments per trained parameter."""
    extra_state_bytes: float = Field(default=0.0, ge=0)
    """Bytes per parameter of the stage that are neither of the three: communication copies, staging."""
    extra_dp_bytes: float = Field(default=0.0, ge=0)
    """The same where replicas reduce whole gradients (ZeRO-0 with more than one of them)."""
    optimizer_temp_bytes: float = Field(default=0.0, ge=0)
    """Bytes per parameter that the optimizer step adds while it runs."""
    persistent_grads: bool = False
    """Gradients live in one buffer for the whole run; else they appear in the backward pass."""
    full: LayerLaw
    """What a layer keeps when its weights are trained."""
    frozen: LayerLaw | None = None
    """What a layer keeps when only adapters are trained: frozen linear layers need no inputs; None: as `full`."""
    adapter_input: float = Field(default=4.0, ge=0)
    """Bytes per token and input element of an adapted linear layer: peft casts the input to the adapter's fp32."""
    adapter_inputs_shared: bool = False
    """Adapters take their inputs uncast, so that q, k, v keep one between them, and gate and up."""
    working_hidden: float = Field(default=0.0, ge=0)
    """Bytes per token and element of hidden_size that the backward pass of a layer adds while it runs."""
    working_ffn: float = Field(default=0.0, ge=0)
    """The same per element of intermediate_size."""
    selective: float = Field(default=1.0, gt=0, le=1)
    """Part of a layer's activations that selective checkpointing keeps, where `products` does not say it."""
    products: LayerLaw | None = None
    """What selective checkpointing keeps beside a layer's input where it keeps what products and attention give."""
    scores: float = Field(default=5.0, ge=0)
    """Bytes per attention score without flash attention: softmax 2, dropout mask 1, dropout output 2 (2205.05198)."""
    outside_hidden: float = Field(default=2.0, ge=0)
    """Bytes per token and element of hidden_size kept outside of the layers by every micro-batch in flight."""
    logits_bytes: float = Field(default=10.0, ge=0)
    """Bytes per logit at the largest instant of head and cross entropy."""
    qlora_end_bytes: float = Field(default=2.0, ge=0)
    """Bytes of a weight of embedding and head under QLoRA; peft's prepare_model_for_kbit_training makes them fp32."""
    vocab_parallel: bool = False
    """Under tensor parallelism each rank holds its part of the logits only; else every rank gathers all of them."""
    fused_loss_hidden: float = Field(default=10.0, ge=0)
    """Bytes per token and element of hidden_size that a fused or chunked loss takes instead of whole logits."""
    split: Literal["even", "by_cost", "balanced"] = "even"
    """How layers are divided over pipeline stages: equal numbers, running arithmetic with the head counted, or so that
    the slowest stage is as fast as can be (memory/stages.py)."""
    gathers: Literal["deepspeed", "fsdp", "none"] = "none"
    """Whose buffers shards and gathered weights take."""
    fragmentation: float = Field(default=0.03, ge=0)
    """Part of the bytes that come and go in a step which the caching allocator reserves on top."""
    fragmentation_bytes: float = Field(default=0.0, ge=0)
    """Bytes that the caching allocator reserves on top of every run."""
    context_bytes: float = Field(default=0.5 * GiB, ge=0)
    """CUDA context and kernels: 0.5 to 2 GiB (stas00/ml-engineering, training/performance); the low end, as published
    runs reserved up to 78.8 of the 79.2 GiB of an A100."""
    communicator_bytes: float = Field(default=0.5 * GiB, ge=0)
    """NCCL's buffers of a run with several ranks: 1 to 2 GiB (same source); less here: runs on two GPUs reserved up to
    23.0 of 23.6 GiB."""
    spread: float = Field(default=0.11, gt=0)
    """Spread of the logarithm of measured over predicted bytes: nine of ten held-out runs lie within 1.645 of it."""
    adapter_spread: float = Field(default=0.15, gt=0)
    """The same for LoRA and QLoRA, whose published runs seldom state the true lengths."""
