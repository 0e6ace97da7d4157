"""Precision, quantisation and optimizers in the words of published rows."""

import pytest

from toolkit.errors import SpecError
from toolkit.planner.profile import profiles
from toolkit.planner.validation.runs import MeasuredRun
from toolkit.planner.validation.states_wording import precision, states


def run(**cells: str) -> MeasuredRun:
    return MeasuredRun({"method": "full", **cells})


@pytest.mark.parametrize(
    ("cells", "weight", "grad", "optimizer"),
    [
        ({"precision": "bf16"}, 2, 2, 12),
        ({"precision": "bf16 (pure)"}, 2, 2, 4),
        ({"precision": "bf16 (pure)", "optimizer": "bnb AdamW8bit"}, 2, 2, 2),
        ({"precision": "bf16 (pure)", "optimizer": "PagedAdamW8bit+opt_in_bwd"}, 2, 0, 0),
        ({"precision": "bf16 (pure)", "optimizer": "Lion"}, 2, 2, 2),
        ({"precision": "bf16 (pure)", "optimizer": "SGD"}, 2, 2, 0),
        ({"optimizer": "AdamW8bit"}, 2, 2, 6),
        ({"optimizer": "8-bit Adam"}, 2, 2, 6),
        ({"optimizer": "4-bit AdamW"}, 2, 2, 5),
        ({"optimizer": "DeepSpeedCPUAdam"}, 2, 2, 12),
        ({"optimizer": "adamw_torch_fused"}, 2, 2, 12),
        ({"optimizer": "LionW/AdamW (yaml)"}, 2, 2, 12),
        # fp32 master weight and one moment.
        ({"optimizer": "Muon"}, 2, 2, 8),
        ({"optimizer": "SGD with momentum"}, 2, 2, 8),
        ({"optimizer": "SGD, no momentum"}, 2, 2, 4),
        ({"optimizer": "Adafactor"}, 2, 2, 4),
        ({"optimizer": "LOMO"}, 2, 0, 4),
        ({"optimizer": "paged_adamw_32bit"}, 2, 2, 0),
    ],
)
def test_bytes_per_parameter(cells: dict[str, str], weight: float, grad: float, optimizer: float) -> None:
    found = states(run(**cells), profiles()["hf-deepspeed"])
    assert (found.weight, found.grad, found.optimizer) == (weight, grad, optimizer)


@pytest.mark.parametrize("optimizer", ["GaLore AdamW", "BAdam", "Apollo", "Adam-mini", "gradient descent"])
def test_optimizers_whose_states_are_not_known(optimizer: str) -> None:
    with pytest.raises(SpecError, match="states of the optimizer"):
        states(run(optimizer=optimizer), profiles()["hf-deepspeed"])


def test_quantised_weights() -> None:
    def frozen(kind: str) -> float:
        return states(run(method="qlora", precision=kind), profiles()["hf-trainer"]).frozen

    assert 0.5 < frozen("bf16+nf4") < 0.53 < frozen("int4 (gptq)") < 1 < frozen("int8 (gptq)") < 1.1


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("", "bf16"),
        ("bfloat16", "bf16"),
        ("bf16 + fp32 grad accum", "bf16"),
        ("amp", "bf16"),
        ("mixed", "bf16"),
        ("16-mixed", "fp16"),
        ("half", "fp16"),
        ("float16", "fp16"),
        ("float8", "fp8"),
        ("MXFP8", "fp8"),
        ("NVFP4", "fp4"),
        ("tf32", "fp32"),
    ],
)
def test_precisions(cell: str, found: str) -> None:
    assert precision(run(precision=cell)) == found


@pytest.mark.parametrize("cell", ["int4", "int8 (gptq)", "bf16+nf4", "fp4 (bnb)", "4-bit"])
def test_quantised_weights_are_multiplied_in_16_bits(cell: str) -> None:
    assert precision(run(precision=cell, method="qlora")) == "bf16"


@pytest.mark.parametrize("cell", ["int4", "posit"])
def test_unknown_precisions_are_refused(cell: str) -> None:
    with pytest.raises(SpecError, match=cell):
        precision(run(precision=cell))
