"""What a processor's kernels are measured on: sizes, shapes, cold inputs."""

import pytest

torch = pytest.importorskip("torch")

from toolkit.calibration.compute import num_copies, taking_turns  # noqa: E402
from toolkit.calibration.kernels import ATTENTION_SHAPES, ELEMENTWISE_SIZES, LOSS_SIZES  # noqa: E402
from toolkit.calibration.ranks import Ranks  # noqa: E402

MIB = 2**20


def test_sizes_lie_on_both_sides_of_what_is_mapped_afresh() -> None:
    for sizes in (ELEMENTWISE_SIZES, LOSS_SIZES):
        assert list(sizes) == sorted(sizes)
        assert sizes[0] < MIB < 32 * MIB in sizes
        assert sizes[-1] > 32 * MIB
    assert max(size for size in ELEMENTWISE_SIZES if size < 32 * MIB) == 31 * MIB
    assert len(set(ATTENTION_SHAPES)) == len(ATTENTION_SHAPES)


def test_small_operations_take_turns_over_more_than_a_cache() -> None:
    processor, device = Ranks(0, 1, torch.device("cpu")), Ranks(0, 1, torch.device("cuda"))
    assert num_copies(processor, MIB) * MIB > 32 * MIB
    assert num_copies(processor, 64 * MIB) == 1
    assert num_copies(processor, 16) < 1000
    assert num_copies(device, MIB) == 1


def test_every_input_gets_its_turn_and_outputs_stay_until_theirs_comes_again() -> None:
    inputs = [(torch.full((1,), float(number)),) for number in range(3)]
    seen: list[float] = []

    def operation(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor.item())
        return tensor

    call = taking_turns(operation, inputs)
    for _ in range(7):
        call()
    assert seen == [0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 0.0]
