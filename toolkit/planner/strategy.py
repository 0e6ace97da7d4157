"""A strategy: how the ranks are divided and what each keeps."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from toolkit.planner.setup import Checkpointing, OffloadActivations
from toolkit.specs.base import Spec

EngineName = Literal["zero", "pipeline", "mcore"]


def ordinal(number: int) -> str:
    """2nd, 3rd, 4th, 11th, 22nd."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def stages_words(stages: Sequence[int]) -> str:
    """Decoder layers of each stage as the command line has them: '9,8,8,7'."""
    return ",".join(map(str, stages))


class Recompute(NamedTuple):
    """What checkpointed layers do, beside being computed again."""

    every: int
    """Of so many layers one is checkpointed."""
    offload: OffloadActivations
    """Where their inputs wait."""


class Layout(Spec):
    """How the ranks are divided: dp x tp x pp x sp x cp = world_size."""

    dp: int = Field(gt=0)
    """Data-parallel replicas."""
    tp: int = Field(default=1, gt=0)
    """Tensor-parallel ranks per replica."""
    pp: int = Field(default=1, gt=0)
    """Pipeline stages per replica."""
    sp: int = Field(default=1, gt=0)
    """Sequence-parallel ranks per replica (Ulysses: attention by heads, the rest by tokens)."""
    cp: int = Field(default=1, gt=0)
    """Context-parallel ranks per replica (ring attention)."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.dp * self.tp * self.pp * self.sp * self.cp


class Strategy(Spec):
    """One point of the search space; with the model, cluster and workload it determines every emitted number."""

    engine: EngineName = "zero"
    """What runs the step: `zero` accelerate + DeepSpeed ZeRO, `pipeline` DeepSpeed's own, `mcore` Megatron-core."""
    layout: Layout
    """How the ranks are divided."""
    zero_stage: Literal[0, 1, 2, 3]
    """0 shards nothing, 1 optimizer states, 2 also gradients, 3 also weights."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lives in host memory: nothing, the optimizer states, or optimizer states and weights."""
    offload_to: Literal["cpu", "nvme"] = "cpu"
    """Where offloaded states live: host memory, or a local disk."""
    activation_checkpointing: Checkpointing = "none"
    """`full` keeps only each layer's input and recomputes the rest. `selective` recomputes what is cheap: all but
    matrix products and attention (engines zero and pipeline), or the attention core only (mcore)."""
    checkpointing_every: int = Field(default=1, gt=0)
    """The first layer is checkpointed and every so many after it; 1 checkpoints all."""
    offload_activations: OffloadActivations = "none"
    """With `full`: where the inputs of checkpointed layers wait, on the device or in host memory (`cpu`)."""
    vpp: int = Field(default=1, gt=0)
    """Model chunks per pipeline stage; above 1 the schedule is interleaved."""
    stages: tuple[int, ...] = ()
    """Decoder layers of each pipeline stage; the first holds the embedding too, the last the head."""
    tp_sequence: bool = True
    """Megatron's sequence parallelism: tensor-parallel ranks divide the tokens of norms and residuals too; engine
    mcore."""
    micro_batch: int = Field(gt=0)
    """Samples per rank per forward pass."""
    grad_accum: int = Field(gt=0)
    """Forward/backward passes per optimizer step."""

    @property
    def on_deepspeed(self) -> bool:
        """True where DeepSpeed runs the step, by a ds_config.json."""
        return self.engine in ("zero", "pipeline")

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Decoder layers of each model chunk of each stage; one chunk per stage unless the schedule is interleaved.

        Chunk c of stage s is part c x pp + s of the model. The chunks are of one size, but that the embedding takes the
        place of a layer in the first chunk of the first stage, and the head in the last of the last, where `stages`
        has a layer less there.
        """
        if self.vpp == 1:
            return tuple((layers,) for layers in self.stages)
        each, last = max(self.stages) // self.vpp, len(self.stages) - 1
        sizes = [[each] * self.vpp for _ in self.stages]
        sizes[0][0] -= each * self.vpp - self.stages[0]
        sizes[last][-1] -= each * self.vpp - self.stages[last]
        return tuple(map(tuple, sizes))

    @property
    def degrees(self) -> dict[str, int]:
        """Ways to divide one replica over ranks (vpp: over time), by name; 1 where it is not divided so."""
        layout = self.layout
        return {"tp": layout.tp, "pp": layout.pp, "vpp": self.vpp, "sp": layout.sp, "cp": layout.cp}

    @property
    def words(self) -> str:
        """For people: 'ZeRO-2, checkpointing, micro-batch 4' or 'mcore, tp 8, pp 16, micro-batch 1'."""
        # The other engines shard the optimizer's states and nothing else: there is no stage to tell.
        words = [f"ZeRO-{self.zero_stage}" if self.engine == "zero" else str(self.engine)]
        words += [f"{name} {size}" for name, size in self.degrees.items() if size > 1]
        if self.offload != "none":
            words.append(f"offload {self.offload}" + (" to disk" if self.offload_to == "nvme" else ""))
        every = f" of every {ordinal(self.checkpointing_every)} layer" if self.checkpointing_every > 1 else ""
        to_host = " to the host" if self.offload_activations != "none" else ""
        recompute = {
            "none": [],
            "selective": [f"selective checkpointing{every}"],
            "full": [f"checkpointing{every}{to_host}"],
        }
        return ", ".join([*words, *recompute[self.activation_checkpointing], f"micro-batch {self.micro_batch}"])
