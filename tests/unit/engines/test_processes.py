"""What a rank refuses before it meets the others."""

from typing import Any

import pytest

import toolkit
from toolkit.engines.ds import processes
from toolkit.errors import MachineError


class Processor:
    """What DeepSpeed says of one."""

    def __init__(self, fp16: bool) -> None:
        self.is_fp16_supported = lambda: fp16


@pytest.mark.parametrize(("precision", "fp16"), [("fp16", True), ("fp32", False), ("bf16", False), ("fp16", False)])
def test_fp16_on_a_processor_without_it(monkeypatch: pytest.MonkeyPatch, precision: Any, fp16: bool) -> None:
    plan = toolkit.plan("tinyllama", "2xcpu", seq_len=64, global_batch=4, precision=precision, method="lora")
    monkeypatch.setattr(processes, "get_accelerator", lambda: Processor(fp16))
    if precision == "fp16" and not fp16:
        with pytest.raises(MachineError, match=r"precision=fp16: this processor .*--precision fp32 or bf16"):
            processes._check_processor(plan)
    else:
        processes._check_processor(plan)
