"""What the words of a row say: offload, checkpointing, quantisation, fused kernels, how memory was read."""

import re
from typing import Literal

from toolkit.planner.profile import Profile
from toolkit.planner.setup import NF4_BYTES, Checkpointing, Method, Offload, StateBytes
from toolkit.planner.validation.runs import MeasuredRun

Reading = Literal["allocated", "reserved", "total"]


def grad_accum(run: MeasuredRun, samples: int, pp: int) -> int:
    """Forward passes per step of `samples` each; where nothing is said, as many as fill the pipeline."""
    if stated := run.count("grad_accum"):
        return stated
    if global_batch := run.count("global_batch"):
        return max(1, global_batch // samples)
    # litgpt's fine-tuning scripts accumulate up to a global batch of 16 and more.
    return max(pp, 2) if run.says("lit-?gpt") else pp


def sp_in_name(run: MeasuredRun) -> int:
    """Sequence-parallel ranks in a recipe's file name, as run-h100-sp8-llama-8b.yml (which others call no-ulysses)."""
    match = None if run.says("no-ulysses", "source") else re.search(r"-sp(\d+)-", run.text("source"))
    return int(match[1]) if match else 1


def zero_stage(run: MeasuredRun, dp: int) -> int:
    """The stage, where it is not stated that of the framework's own recipes."""
    stage = run.number("zero_stage")
    if stage is not None:
        return int(stage)
    if dp == 1:
        return 0
    # Megatron's and NeMo's recipes use the distributed optimizer.
    return 3 if run.says("fsdp|zero-?3") else 1 if run.says("megatron|nemo") else 0


def offload(run: MeasuredRun) -> Offload:
    """What lives in host memory."""
    text = run.text("offload").lower()
    if "param" in text:
        return "all"
    return "optimizer" if "optim" in text else "none"


def offloaded_activations(run: MeasuredRun) -> float:
    """The part that a row words as "alpha=0.4"; all of it where it only says that activations are offloaded."""
    said = f"{run.text('offload')} {run.text('notes')}"
    if match := re.search(r"\balpha\s*=\s*(\d*\.?\d+)", said):
        return min(1.0, float(match[1]))
    return 1.0 if run.says(r"\bact", "offload") or run.says("unsloth") else 0.0


def checkpointing(run: MeasuredRun) -> Checkpointing:
    """What is recomputed, where it is not stated what the framework's own recipes do."""
    text = run.text("act_ckpt").lower()
    if text.startswith(("none", "no")) and not text.startswith("not"):
        return "none"
    if text.startswith("selective"):
        return "selective"
    if text.startswith(("full", "yes", "true")):
        return "full"
    if run.says("lit-?gpt|megatron|nemo"):
        return "none"
    # Recipes of adapters and of torchtune on one device checkpoint unless told otherwise.
    return "full" if run.text("method") != "full" or run.says("torchtune") else "none"


def method(run: MeasuredRun) -> Method:
    """What is trained."""
    text = run.text("method").lower()
    return "qlora" if "qlora" in text else "lora" if "lora" in text else "full"


def lora_rank(run: MeasuredRun) -> int:
    """The rank in the notes, else the framework's default."""
    match = re.search(r"\b(?:rank|r)\s*=?\s*(\d+)", run.text("notes"), re.IGNORECASE)
    if match:
        return int(match[1])
    return 64 if run.says("fsdp_qlora") else 8  # its train.py; peft's LoraConfig


def lora_targets(run: MeasuredRun) -> int:
    """How many linear layers of a decoder layer are adapted: all that the notes say, else peft's q and v."""
    return 7 if run.says(r"all.?linear|unsloth|fsdp_qlora") else 2


def precision(run: MeasuredRun) -> Literal["fp32", "bf16", "fp16", "fp8", "fp4"]:
    """Of the matrix products."""
    text = run.text("precision").lower()
    if "fp4" in text:
        return "fp4"
    if "fp8" in text:
        return "fp8"
    if "bf16" in text or not text or method(run) != "full":
        return "bf16"
    return "fp16" if "16" in text else "fp32"


def states(run: MeasuredRun, profile: Profile) -> StateBytes:
    """Bytes per parameter by precision, quantisation and optimizer."""
    law = profile.memory
    weight, grad, optimizer = law.weight_bytes, law.grad_bytes, law.optimizer_bytes
    words = run.text("optimizer").lower()
    if run.says(r"pure|bf16 states|bf16 master", "precision", "optimizer"):
        weight, grad, optimizer = 2.0, 2.0, 4.0
    # Moments of 8 and 4 bits instead of those that the precision gives.
    moments = 4.0 if optimizer <= 4 else 8.0
    if "8bit" in words or "8-bit" in words:
        optimizer -= moments - 2.0
    if "4bit" in words:
        optimizer -= moments - 1.0
    if "paged" in words:
        optimizer = 0.0
    if re.search(r"opt\w*_in_bwd", f"{words} {run.text('notes')}"):
        grad = 0.0
    return StateBytes(weight=weight, frozen=_frozen_bytes(run), grad=grad, optimizer=optimizer)


def _frozen_bytes(run: MeasuredRun) -> float:
    """A frozen linear weight: 16 bits, or what the quantisation of QLoRA leaves."""
    if method(run) != "qlora":
        return 2.0
    if run.says("int8|8.?bit", "precision"):
        return 1.0 + 2.0 / 64
    return 0.5 + 4.0 / 128 if run.says("gptq", "precision", "notes") else NF4_BYTES


def frozen_grads(run: MeasuredRun) -> bool:
    """litgpt wraps adapters and frozen weights of a block in one FSDP unit; fsdp_qlora and peft's examples do not."""
    return run.says("lit-?gpt") and method(run) != "full" and run.says("fsdp", "framework", "zero_stage")


def fused_loss(run: MeasuredRun) -> bool:
    """Head and loss in chunks: Liger, ALST's tiles, Unsloth, litgpt's chunked cross entropy."""
    return uses_liger(run) or run.says("fused.?ce|fused.?loss|chunked.?(ce|loss)|tiled|unsloth|lit-?gpt")


def uses_liger(run: MeasuredRun) -> bool:
    """Liger's kernels."""
    return run.says("liger") and not run.says("no liger")


def reading(run: MeasuredRun) -> Reading:
    """Which of the three readings the row's peak is."""
    kind = run.text("mem_kind").lower()
    if re.search(r"nvml|nvidia-smi|device|used", kind):
        return "total"
    return "allocated" if "allocated" in kind and "reserved" not in kind else "reserved"


def stage(run: MeasuredRun, pp: int) -> int | None:
    """Which pipeline stage was read, where the table says one; None for the fullest."""
    if run.says("last rank", "mem_kind", "notes"):
        return pp - 1
    return 0 if run.says("rank.?0|first PP stage", "mem_kind", "notes") else None
