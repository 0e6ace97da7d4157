"""How a step may be computed: loss, attention, recomputed layers, compiled layers; what goes together, and where.

What is refused together with `compile` was tried with torch 2.13 and DeepSpeed 0.19.8 (tests/ranks/test_compile.py).
"""

from collections.abc import Iterator

from toolkit.planner.fault import Fault, lacks, rule
from toolkit.planner.setup import Setup
from toolkit.planner.strategy import EngineName


def step_faults(engine: EngineName, setup: Setup) -> Iterator[Fault]:
    """Faults in what a step computes its layers and its loss with."""
    if engine == "mcore":
        yield from _megatron_faults(setup)
        return
    yield from _recompute_faults(setup)
    yield from _attention_faults(engine, setup)
    yield from _compile_faults(setup)


def _megatron_faults(setup: Setup) -> Iterator[Fault]:
    """Its layers and its loss are its own."""
    every = setup.checkpointing_every
    own = (
        ("loss=chunked", setup.chunked_loss, "has a loss of its own; use loss=full"),
        (f"checkpointing_every={every}", every > 1, "recomputes all layers or none; use checkpointing_every=1"),
        ("offload_activations=cpu", setup.offload_activations != "none", "keeps them on the device; use none"),
        ("lora_targets=lm_head", setup.lora_head, "adapts layers of the decoder; leave lm_head out"),
        ("compile=true", setup.compiled, "compiles what it can by itself; use compile=false"),
        (f"attention={setup.attention}", setup.attention != "sdpa", "chooses its own kernels; leave it out"),
    )
    for given, asked, words in own:
        if asked:
            yield lacks(f"{given}: engine mcore {words}")
    yield from map(lacks, setup.layer_gaps)


def _recompute_faults(setup: Setup) -> Iterator[Fault]:
    every, layers = setup.checkpointing_every, setup.shape.num_layers
    mode = f"activation_checkpointing={setup.checkpointing}"
    if every > 1 and setup.checkpointing == "none":
        yield rule(f"checkpointing_every={every} with {mode}: no layer is checkpointed; use selective or full")
    if setup.offload_activations != "none" and setup.checkpointing != "full":
        yield rule(f"offload_activations=cpu with {mode}: what it moves are inputs of checkpointed layers; use full")
    if every > layers:
        yield Fault("layers", f"checkpointing_every={every} exceeds the model's {layers} layers; use 1 to {layers}")


def _attention_faults(engine: EngineName, setup: Setup) -> Iterator[Fault]:
    given = f"attention={setup.attention}"
    if setup.attention != "sdpa" and setup.sp > 1:
        yield rule(f"{given} with sp={setup.sp}: Ulysses here is made with sdpa; use attention=sdpa, or sp=1")
    if setup.attention != "flash_attention_2":
        return
    if setup.cluster.device.kind == "cpu":
        yield rule(f"{given}: flash-attn has kernels for GPUs, not for {setup.cluster.device.name}; use attention=sdpa")
    if setup.precision == "fp32":
        yield rule(f"{given}: flash-attn computes in 16 bits, not in fp32; use precision=bf16 or attention=sdpa")
    if engine == "pipeline":
        yield rule(f"{given}: engine pipeline answers with masks that flash-attn does not take; use attention=sdpa")


def _compile_faults(setup: Setup) -> Iterator[Fault]:
    if setup.compiled and setup.zero_stage == 3:
        # Of 10 layers: 42 breaks, the limit of compilations reached, steps 25 % longer than without.
        yield rule(
            "compile=true with zero_stage=3: DeepSpeed's hooks break a layer into pieces that torch gives up on, and "
            "steps get slower; use zero_stage=2 or less, or compile=false"
        )
    if setup.compiled and setup.checkpointing == "selective" and setup.tp * setup.sp > 1:
        # torch's own warning; collectives write into tensors that are there.
        yield rule(
            f"compile=true with activation_checkpointing=selective and tp={setup.tp} x sp={setup.sp}: torch's compiler "
            "takes no operation in place in such layers, exchanges between ranks are; use full, or compile=false"
        )
