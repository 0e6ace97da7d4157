"""The cases, most informative first, and what the planner predicts for each."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from toolkit.planner.buckets import DEEPSPEED_DEFAULTS
from toolkit.planner.cost.estimate import estimate_time
from toolkit.planner.memory import estimate_memory
from toolkit.planner.plan import Plan
from toolkit.planner.resolve import setup_of
from toolkit.planner.setup import Setup
from toolkit.planner.strategy import Layout, Strategy
from toolkit.specs.cluster import ClusterSpec
from toolkit.specs.model import ModelSpec
from toolkit.specs.workload import Workload

LORA_RANK = 16

TINY = ModelSpec(
    name="tiny-llama",
    model_type="llama",
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position_embeddings=256,
)
"""What a rehearsal trains."""


@dataclass(frozen=True)
class Case:
    """One layout on one GPU."""

    model: str
    """Catalog name, or that of `TINY`."""
    zero_stage: Literal[0, 1, 2, 3]
    seq_len: int
    micro_batch: int
    grad_accum: int = 1
    method: Literal["full", "lora"] = "full"
    checkpointing: bool = False
    offload: Literal["none", "optimizer", "all"] = "none"
    chunked_loss: bool = False
    """`loss: chunked`, so that the logits of all tokens never exist at once."""
    default_buckets: bool = False
    """DeepSpeed's own bucket sizes instead of those that the toolkit writes."""

    @property
    def key(self) -> str:
        """Unique name, also the row's id."""
        words = [f"{self.model}-{self.method}-z{self.zero_stage}-s{self.seq_len}-b{self.micro_batch}"]
        words += [f"a{self.grad_accum}"] * (self.grad_accum > 1) + ["ckpt"] * self.checkpointing
        words += [f"offload_{self.offload}"] * (self.offload != "none")
        words += ["chunked"] * self.chunked_loss + ["dsbuckets"] * self.default_buckets
        return "-".join(words)

    @property
    def tokens(self) -> int:
        """Tokens per optimizer step."""
        return self.seq_len * self.micro_batch * self.grad_accum

    @property
    def spec(self) -> ModelSpec:
        """The model's shapes."""
        return TINY if self.model == TINY.name else ModelSpec.resolve(self.model)

    @property
    def workload(self) -> Workload:
        """In bf16."""
        batch = self.micro_batch * self.grad_accum
        loss: Literal["full", "chunked"] = "chunked" if self.chunked_loss else "full"
        return Workload(seq_len=self.seq_len, global_batch=batch, method=self.method, lora_rank=LORA_RANK, loss=loss)


class Planned(NamedTuple):
    """A case as the planner sees it."""

    plan: Plan
    setup: Setup


def planned(case: Case, cluster: ClusterSpec) -> Planned:
    """The plan that runs the case: the layout is given, nothing is searched."""
    strategy = Strategy(
        layout=Layout(dp=1),
        zero_stage=case.zero_stage,
        offload=case.offload,
        activation_checkpointing="full" if case.checkpointing else "none",
        micro_batch=case.micro_batch,
        grad_accum=case.grad_accum,
    )
    workload = case.workload
    if cluster.device.kind == "cpu":
        workload = workload.model_copy(update={"precision": "fp32"})
    setup = setup_of(case.spec, cluster, workload=workload, strategy=strategy)
    # As a row of published runs is read, where nobody says by what a loss is chunked.
    setup = setup._replace(fused_loss=case.chunked_loss)
    if case.default_buckets:
        setup = setup._replace(buckets=DEEPSPEED_DEFAULTS)
    plan = Plan(
        model=case.spec,
        cluster=cluster,
        workload=workload,
        strategy=strategy,
        memory=estimate_memory(setup),
        time=estimate_time(setup),
        gradient_clipping=1.0,
        reasons=("a case of benchmarks/one_gpu_runs.py",),
    )
    return Planned(plan, setup)


_1B, _3B, _8B = "llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"

# Host memory bounds the offloaded cases: 16 bytes per trained weight (optimizer), 18 with the weights (all), up to half
# as much again while they are pinned. 3B takes 58-87 GB; 8B in full would take 144 GB and more, so it is adapters only.
CASES = (
    # One of each kind first: a slot that ends early still says something about every term.
    Case(_1B, 2, 2048, 4),
    Case(_1B, 3, 2048, 4),
    Case(_8B, 0, 2048, 1, method="lora"),
    Case(_3B, 2, 4096, 1, checkpointing=True),
    Case(_1B, 2, 2048, 4, offload="optimizer"),
    Case(_3B, 3, 4096, 2, checkpointing=True),
    Case(_1B, 2, 16384, 1, checkpointing=True),
    Case(_1B, 2, 16384, 1, checkpointing=True, chunked_loss=True),
    Case(_8B, 3, 8192, 1, method="lora", checkpointing=True),
    Case(_1B, 0, 2048, 4),
    Case(_1B, 1, 2048, 4),
    Case(_3B, 3, 4096, 1, checkpointing=True, offload="all"),
    Case(_8B, 1, 1024, 1, checkpointing=True),
    Case(_1B, 2, 2048, 1, grad_accum=4),
    Case(_1B, 3, 2048, 1, grad_accum=4),
    # What the buckets cost, at the same layouts as above.
    Case(_1B, 2, 2048, 4, default_buckets=True),
    Case(_1B, 3, 2048, 4, default_buckets=True),
    # Out of memory, by activations or logits alone, far from the edge.
    Case(_3B, 2, 16384, 2),
    Case(_8B, 0, 16384, 2, method="lora"),
    # Sequence, micro-batch, model.
    Case(_8B, 3, 16384, 1, method="lora", checkpointing=True, offload="all"),
    Case(_3B, 3, 2048, 4, offload="optimizer"),
    Case(_1B, 2, 1024, 8),
    Case(_1B, 2, 8192, 1),
    Case(_3B, 1, 2048, 2),
    Case(_3B, 0, 2048, 4, checkpointing=True),
    Case(_8B, 2, 4096, 2, method="lora"),
    Case(_8B, 2, 16384, 1, method="lora", checkpointing=True, chunked_loss=True),
    Case(_3B, 2, 16384, 1, checkpointing=True, chunked_loss=True),
    Case(_3B, 2, 2048, 8, method="lora"),
    Case(_8B, 3, 1024, 1, checkpointing=True),
    Case(_1B, 1, 2048, 4, offload="optimizer"),
    Case(_1B, 3, 2048, 4, offload="all"),
    Case(_1B, 3, 4096, 2, checkpointing=True),
    Case(_1B, 2, 2048, 8, checkpointing=True),
    Case(_1B, 2, 2048, 8, chunked_loss=True),
    Case(_8B, 0, 1024, 8, method="lora", checkpointing=True),
    Case(_3B, 3, 8192, 1, chunked_loss=True),
    Case(_3B, 2, 4096, 2),
    Case(_8B, 2, 4096, 1, checkpointing=True),
    Case(_1B, 3, 16384, 1),
    Case(_3B, 2, 2048, 2, grad_accum=4, checkpointing=True),
)

REHEARSAL = (
    Case(TINY.name, 0, 64, 2),
    Case(TINY.name, 2, 64, 2, checkpointing=True, offload="optimizer"),
    Case(TINY.name, 3, 64, 2, method="lora", checkpointing=True),
    Case(TINY.name, 2, 128, 2, grad_accum=2, checkpointing=True, chunked_loss=True),
    Case(TINY.name, 3, 64, 2, offload="all", chunked_loss=True),
    Case(TINY.name, 2, 64, 2, method="lora", chunked_loss=True, default_buckets=True),
)
"""The same ways through the code, on CPU."""
