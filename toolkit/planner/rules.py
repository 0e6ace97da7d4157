"""What each engine can run, as a table.

Sources: deepspeed 0.19.8 (runtime/zero/config.py, runtime/pipe, module_inject/auto_tp.py), megatron-core 0.16
(core/transformer/transformer_config.py, core/pipeline_parallel/schedules.py).
"""

from typing import Literal, NamedTuple

from toolkit.planner.setup import Checkpointing, Method, Offload
from toolkit.planner.strategy import EngineName
from toolkit.specs.optimizer import OPTIMIZER_NAMES, OptimizerName
from toolkit.specs.workload import Mixed

Degree = Literal["tp", "pp", "vpp", "sp", "cp"]
Stage = Literal[0, 1, 2, 3]

DEGREES: dict[Degree, str] = {
    "tp": "tensor parallelism",
    "pp": "pipeline parallelism",
    "vpp": "interleaved pipelines",
    "sp": "sequence parallelism",
    "cp": "context parallelism",
}
"""Ways to divide one replica over ranks (vpp: over time), in words."""


class Rules(NamedTuple):
    """What one engine can run."""

    degrees: tuple[Degree, ...]
    """What may be above 1."""
    zero: dict[Stage, tuple[Offload, ...]]
    """ZeRO stages, and what each can move to the host."""
    nvme: tuple[Stage, ...]
    """Stages that can offload to a local disk instead."""
    checkpointing: tuple[Checkpointing, ...]
    methods: tuple[Method, ...]
    tp_zero: tuple[Stage, ...] = (0, 1, 2, 3)
    """ZeRO stages that go together with tensor parallelism."""
    tp_methods: tuple[Method, ...] = ("full",)
    """Methods together with tensor parallelism: DeepSpeed's AutoTP replaces peft's layers and the adapters are gone."""
    optimizers: tuple[OptimizerName, ...] = OPTIMIZER_NAMES
    mixed: tuple[Mixed, ...] = ("master", "autocast", "none")
    even_stages: bool = False
    """Unless asked otherwise stages hold equal numbers of layers, but that embedding and head may each take the place
    of one; chunks of an interleaved schedule always do."""
    own_stages: bool = False
    """Stages hold the numbers of layers that the plan says."""
    devices: tuple[str, ...] = ("cuda", "rocm", "cpu")
    """Kinds of devices it is for; on others it is planned only if asked for."""
    timed: bool = True
    """Its steps have been timed on GPUs; else it is chosen only where it is asked for, or nothing else fits."""


ENGINES: dict[EngineName, Rules] = {
    "zero": Rules(
        degrees=("tp", "sp"),
        # offload_param is valid with stage 3 only (zero/config.py).
        zero={0: ("none",), 1: ("none", "optimizer"), 2: ("none", "optimizer"), 3: ("none", "optimizer", "all")},
        nvme=(3,),
        checkpointing=("none", "selective", "full"),
        methods=("full", "lora", "qlora"),
        # Stage 0 clips and reports the norm of one rank's part.
        tp_zero=(1, 2, 3),
    ),
    "pipeline": Rules(
        degrees=("tp", "pp"),
        # Stage 0 clips each pipeline stage by its own norm; 2 and 3 are refused (runtime/pipe/engine.py).
        zero={1: ("none", "optimizer")},
        nvme=(),
        checkpointing=("none", "selective", "full"),
        # Tensor parallelism cuts a stage's layers by hand (module_inject/layers.py), which no adapter has been put
        # through.
        methods=("full", "lora"),
        own_stages=True,
    ),
    "mcore": Rules(
        degrees=("tp", "pp", "vpp", "cp"),
        # The distributed optimizer, with one data-parallel rank too: one code path.
        zero={1: ("none",)},
        nvme=(),
        checkpointing=("none", "selective", "full"),
        methods=("full", "lora"),
        tp_methods=("full", "lora"),
        even_stages=True,
        own_stages=True,
        # Its kernels (Transformer Engine) are for GPUs; a CPU can rehearse a layout, nobody trains so.
        devices=("cuda", "rocm"),
        # Its law is of Transformer Engine's kernels, which it does not use.
        timed=False,
        # DistributedOptimizer.__init__ asserts Adam (core/optimizer/distrib_optimizer.py).
        optimizers=("adamw",),
        mixed=("master",),
    ),
}
