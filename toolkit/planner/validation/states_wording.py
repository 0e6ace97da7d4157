"""What the words of a row say about numbers: precision, quantisation, and what its optimizer keeps."""

import re
from typing import Literal

from toolkit.errors import SpecError
from toolkit.planner.profile import Profile
from toolkit.planner.setup import NF4_BYTES, StateBytes
from toolkit.planner.validation.runs import MeasuredRun, shortened
from toolkit.planner.validation.wording import method

Precision = Literal["fp32", "bf16", "fp16", "fp8", "fp4"]

PRECISIONS: tuple[tuple[Precision, str], ...] = (
    ("fp4", r"fp4|float4"),
    ("fp8", r"fp8|float8"),
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|float16|\bhalf\b|\b16\b"),
    ("fp32", r"fp32|float32|tf32|\b32\b"),
    ("bf16", r"mixed|\bamp\b"),
)
"""Precision of the matrix products -> the words for it; the first that match count."""

QUANTISED = r"nf4|fp4|int[48]|[48][ -]?bit|gptq|awq|bnb|hqq"
"""How QLoRA's frozen weights are stored: they are multiplied in 16 bits."""

MOMENTS: tuple[tuple[int | None, str], ...] = (
    (None, r"galore|badam|apollo|fira|mini|lisa|sophia|shampoo|\bsoap|\bcame"),
    (2, r"(?<![a-z])((paged|fused|cpu|ds|deepspeed)[ _-]?)*[nr]?adam|lora-?fa"),
    (1, r"(?<![a-z])(paged[ _-]?)?lion|muon|momentum|adagrad|rmsprop"),
    (0, r"(?<![a-z])sgd|lomo|adafactor"),
    (2, r"^(|default.*|fused)$"),
)
"""Moments per parameter -> the optimizers that keep so many; the first that match count. Adafactor's rows and columns
are small beside a parameter. None: its states follow from more than its name."""


def precision(run: MeasuredRun) -> Precision:
    """Of the matrix products.

    Raises:
        SpecError: words that name none.
    """
    text = run.words("precision")
    if method(run) == "qlora":
        text = re.sub(QUANTISED, "", text)
    for name, words in PRECISIONS:
        if re.search(words, text):
            return name
    if re.search(r"[a-z0-9]", text) and method(run) != "qlora":
        raise SpecError(f"precision {shortened(text)} is not known here")
    return "bf16"


def states(run: MeasuredRun, profile: Profile) -> StateBytes:
    """Bytes per parameter by precision, quantisation and optimizer.

    A paged optimizer counts as nothing on the device: its states are managed memory, which torch's statistics leave
    out and the driver moves to the host under pressure.

    Raises:
        SpecError: an optimizer whose states are not known.
    """
    law = profile.memory
    weight, grad, optimizer = law.weight_bytes, law.grad_bytes, law.optimizer_bytes
    if run.affirms(r"pure|bf16 states|bf16 master", "precision", "optimizer"):
        weight, grad, optimizer = 2.0, 2.0, 4.0
    words = run.words("optimizer")
    # Two moments of 16 bits where that is all there is, else two of 32.
    moment = 2.0 if optimizer <= 4 else 4.0
    optimizer += _moments(words) * _moment_bytes(words, moment) - 2 * moment
    if "paged" in words:
        optimizer = 0.0
    if re.search(r"opt\w*_in_bwd|lomo", f"{words} {run.text('notes')}", re.IGNORECASE):
        grad = 0.0
    return StateBytes(weight=weight, frozen=_frozen_bytes(run), grad=grad, optimizer=optimizer)


def _moments(words: str) -> int:
    text = re.sub(r"(no|without|w/o) momentum|momentum ?= ?0\b", "", words)
    found = next((count for count, names in MOMENTS if re.search(names, text)), None)
    if found is None:
        raise SpecError(f"the states of the optimizer {shortened(words)} are not known")
    return found


def _moment_bytes(words: str, otherwise: float) -> float:
    if re.search(r"8[ -]?bit", words):
        return 1.0
    return 0.5 if re.search(r"4[ -]?bit", words) else otherwise


def _frozen_bytes(run: MeasuredRun) -> float:
    """A frozen linear weight: 16 bits, or what the quantisation of QLoRA leaves."""
    if method(run) != "qlora":
        return 2.0
    if run.says("int8|8.?bit", "precision"):
        return 1.0 + 2.0 / 64
    return 0.5 + 4.0 / 128 if run.says("gptq", "precision", "notes") else NF4_BYTES
