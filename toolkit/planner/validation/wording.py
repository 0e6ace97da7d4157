"""What the words of a row say: layout, offload, checkpointing, adapters, fused kernels, how memory was read.

A cell that is empty means the framework's default; words that nobody here knows make the row unusable, for what they
stand for would be guessed.
"""

import re
from typing import Literal

from toolkit.errors import SpecError
from toolkit.planner.setup import Checkpointing, Method, Offload
from toolkit.planner.validation.runs import MeasuredRun, shortened
from toolkit.specs.model import LINEAR_LAYERS

Reading = Literal["allocated", "reserved", "total"]


CHECKPOINTING: tuple[tuple[Checkpointing, str], ...] = (
    ("none", r"^(none|no|off|false|0(\.0)?|disabled?|without|not used)\b"),
    ("selective", r"\bselective"),
    ("full", r"^(full|yes|true|on|1(\.0)?|enabled?|all|block|uniform|unsloth|recompute|reentrant)\b|\bfull\b"),
    ("full", r"^(gradient|activation)[ -]?checkpoint"),
)
"""What is recomputed -> the words for it; the first that match count."""
UNSTATED_CHECKPOINTING = r"^(|(recipe |framework )?default.*|not stated.*|not in table.*|unknown.*)$"
"""Cells that leave checkpointing open."""


def grad_accum(run: MeasuredRun, samples: int, pp: int) -> int:
    """Forward passes per step of `samples` each; where nothing is said, as many as fill the pipeline.

    Raises:
        SpecError: the global batch is no multiple of the samples.
    """
    if stated := run.count("grad_accum"):
        return stated
    if global_batch := run.count("global_batch"):
        if global_batch % samples:
            raise SpecError("the global batch is no multiple of dp x micro_batch")
        return global_batch // samples
    # litgpt's fine-tuning scripts accumulate up to a global batch of 16 and more.
    return max(pp, 2) if run.affirms("lit-?gpt") else pp


def sp_in_name(run: MeasuredRun) -> int:
    """Sequence-parallel ranks in a recipe's file name, as run-h100-sp8-llama-8b.yml (which others call no-ulysses)."""
    match = None if run.says("no-ulysses", "source") else re.search(r"-sp(\d+)-", run.text("source"))
    return int(match[1]) if match else 1


def zero_stage(run: MeasuredRun, dp: int) -> int:
    """The stage, where it is not stated that of the framework's own recipes.

    Raises:
        SpecError: no stage of ZeRO.
    """
    text = run.words("zero_stage")
    # The 2 of FSDP2 is its version.
    if digits := re.search(r"(zero|stage|z|^|[^\d.])[ -]?(\d+)", re.sub(r"fsdp ?[12]\b", "fsdp", text)):
        if int(digits[2]) > 3:
            raise SpecError(f"zero_stage is {shortened(text)}, ZeRO has stages 0 to 3")
        return int(digits[2])
    for stage, words in ((0, r"^(none|no|off|ddp)\b|no_shard"), (2, "shard_grad_op"), (3, "fsdp|full_shard")):
        if re.search(words, text):
            return stage
    if re.search(r"dist\w*[ -]?opt", text):
        return 1
    if text and "not stated" not in text:
        raise SpecError(f"zero_stage is {shortened(text)}, which names no stage")
    return _usual_stage(run, dp)


def _usual_stage(run: MeasuredRun, dp: int) -> int:
    if dp == 1:
        return 0
    # Megatron's and NeMo's recipes use the distributed optimizer.
    return 3 if run.affirms("fsdp|zero-?3") else 1 if run.affirms("megatron|nemo") else 0


def offload(run: MeasuredRun) -> Offload:
    """What lives in host memory.

    Raises:
        SpecError: words that name none of the states.
    """
    denied = r"\bno[ -](param|optim)\w*( offload\w*)?|\b(param|optim)\w*\s*[=:]\s*(no|none|false|0|off)\b"
    text = re.sub(denied, "", run.words("offload")).strip(" ,;+()")
    if re.search(r"(?<![a-z])param|weights|zero-?infinity|^all\b", text):
        return "all"
    if re.search(r"optim|adam|zero-?offload|grad|^(cpu|nvme|host|yes|true|on|1|enabled)$", text):
        return "optimizer"
    if text and not re.search(r"^(none|no|off|false|0|disabled)\b|\bact", text):
        raise SpecError(f"offload is {shortened(text)}, which names neither optimizer nor parameters")
    return "none"


def offloaded_activations(run: MeasuredRun) -> float:
    """The part of the activations that waits in host memory: "alpha=0.4", "act(0.45)"; all where no part is named."""
    text = run.words("offload")
    # The alpha of adapters is another.
    said = f"{text} {run.text('notes')}" if method(run) == "full" else text
    part = re.search(r"\balpha\s*=\s*([01]?\.\d+|[01])\b", said) or re.search(r"\bact[^;,+]*?([01]?\.\d+)", text)
    if part:
        return min(1.0, float(part[1]))
    return 1.0 if run.affirms(r"\bact", "offload") or run.affirms("unsloth", "framework", "act_ckpt") else 0.0


def checkpointing(run: MeasuredRun) -> Checkpointing:
    """What is recomputed, where it is not stated what the framework's own recipes do.

    Raises:
        SpecError: words of which this is not known.
    """
    text = run.words("act_ckpt")
    if checkpointing_stated(run):
        for kept, words in CHECKPOINTING:
            if re.search(words, text):
                return kept
        raise SpecError(f"activation checkpointing {shortened(text)} is not known here")
    if run.affirms("lit-?gpt|megatron|nemo"):
        return "none"
    # Recipes of adapters and of torchtune on one device checkpoint unless told otherwise.
    return "full" if method(run) != "full" or run.affirms("torchtune") else "none"


def checkpointing_stated(run: MeasuredRun) -> bool:
    """False where the cell is empty or only refers to a recipe."""
    return re.search(UNSTATED_CHECKPOINTING, run.words("act_ckpt")) is None


def method(run: MeasuredRun) -> Method:
    """What is trained: all weights, or LoRA's adapters over plain or quantised weights; DoRA and rsLoRA count as LoRA.

    Raises:
        SpecError: another method, of which the memory is not known.
    """
    text = run.words("method")
    if re.search(r"(?<![a-z])q[-_ ]?(lora|dora)", text):
        return "qlora"
    if re.search(r"(?<![a-z])(rs[-_ ]?)?(lora|dora)(?![a-z])", text):
        return "lora"
    if not re.search(r"^(|full\b.*|full_.*|fft|pre-?train.*)$", text):
        raise SpecError(f"what the method {shortened(text)} keeps in memory is not known")
    return "full"


def lora_rank(run: MeasuredRun) -> int:
    """The rank in the notes or beside the method, else the framework's default; "rank 0" is a process."""
    said = f"{run.text('method')}; {run.text('notes')}"
    for name in (r"lora[_ ]?r(?:ank)?", r"r(?=\W*\d)", "rank"):
        for match in re.finditer(rf"\b{name}[\s=:-]*(\d{{1,4}})\b", said, re.IGNORECASE):
            if rank := int(match[1]):
                return rank
    return 64 if run.affirms("fsdp_qlora") else 8  # its train.py; peft's LoraConfig


def lora_targets(run: MeasuredRun) -> tuple[str, ...]:
    """Which linear layers of a decoder layer are adapted: all where the notes say so, else peft's q and v."""
    return LINEAR_LAYERS if run.affirms(r"all.?linear|unsloth|fsdp_qlora") else ("q_proj", "v_proj")


def trained_ends(run: MeasuredRun) -> bool:
    """Embedding and head are trained beside the adapters."""
    words = r"\(\W*emb|\+ ?emb|modules_to_save|embed\w*\b[^;.]{0,30}\b(is|are|also|be)? ?trained|\btrain\w* embed"
    return method(run) != "full" and run.affirms(words, "method", "notes")


def frozen_grads(run: MeasuredRun) -> bool:
    """litgpt wraps adapters and frozen weights of a block in one FSDP unit; fsdp_qlora and peft's examples do not."""
    return run.says("lit-?gpt") and method(run) != "full" and run.says("fsdp", "framework", "zero_stage")


def fused_loss(run: MeasuredRun) -> bool:
    """Head and loss in chunks: Liger, ALST's tiles, Unsloth, litgpt's chunked cross entropy."""
    return uses_liger(run) or run.affirms("fused.?ce|fused.?loss|chunked.?(ce|loss)|tiled|unsloth|lit-?gpt")


def uses_liger(run: MeasuredRun) -> bool:
    """Liger's kernels."""
    return run.affirms("liger")


def reading(run: MeasuredRun) -> Reading:
    """Which of the three readings the row's peak is; what a table calls used may still be named as torch's."""
    kind = re.sub(r"reserved (is )?not \w+|not reserved", "", run.text("mem_kind").lower())
    if re.search(r"reserved", kind):
        return "reserved"
    if re.search(r"allocated", kind):
        return "allocated"
    return "total" if re.search(r"nvml|nvidia-smi|device|used", kind) else "reserved"


def stage(run: MeasuredRun, pp: int) -> int | None:
    """Which pipeline stage was read, where the table says one; None for the fullest."""
    if run.says("last rank", "mem_kind", "notes"):
        return pp - 1
    return 0 if run.says("rank.?0|first PP stage", "mem_kind", "notes") else None
