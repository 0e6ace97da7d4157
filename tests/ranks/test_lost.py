"""An engine that trains less than it was given is refused, with tensors and parameters of both."""

from dataclasses import replace

import pytest
import torch

from procs import run_ranks
from toolkit.engines.common.lost import check_nothing_lost, sizes_of, trained_sizes
from toolkit.engines.common.tensors import trained_tensors

pytestmark = pytest.mark.ranks


def compare(lost: str | None, shrunk: str | None) -> str:
    """What is told of a model two of whose three tensors train, after one of them was lost or has shrunk."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1, bias=False))
    model[0].bias.requires_grad_(False)
    tensors = trained_tensors(model.named_parameters(), {}, group=None)
    left = [one for one in tensors if one.name != lost]
    left = [replace(one, shape=(1, 1)) if one.name == shrunk else one for one in left]
    try:
        check_nothing_lost(trained_sizes(model), sizes_of(left), library="DeepSpeed")
    except Exception as error:  # noqa: BLE001 - its words go back to the test
        return f"{type(error).__name__}: {error}"
    return ""


def test_what_is_lost_is_told() -> None:
    assert run_ranks(compare, 2, None, None) == ["", ""]
    told = run_ranks(compare, 2, "1.weight", None)[0]
    assert told.startswith("EngineError: DeepSpeed")
    assert told.endswith("trains 1 tensors of 6 parameters, wanted are 2 of 9; the first that differs is 1.weight")
    assert "trains 2 tensors of 4 parameters, wanted are 2 of 9" in run_ranks(compare, 2, None, "0.weight")[0]
