"""What a rank is busy with: its own computing, never its waiting."""

import time

import pytest
import torch

from toolkit.engines.common.busy import Busy

CPU = torch.device("cpu")


class Model(torch.nn.Module):
    """A product, and a nap that stands for a device that takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(8, 8)
        self.seconds = seconds

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        found: torch.Tensor = self.inner(inputs)
        return found


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def step(busy: Busy, model: Model, optimizer: torch.optim.Optimizer, *, waits: float = 0.0, works: float = 0.0) -> None:
    busy.begin()
    model(torch.ones(2, 8)).sum().backward()
    compute(works)
    time.sleep(waits)  # as in a collective: without a processor
    optimizer.step()


def parts(model: Model) -> tuple[Busy, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Busy(CPU, alone=[model], optimizer=optimizer), optimizer


def test_waiting_is_not_being_busy() -> None:
    busy, optimizer = parts(model := Model())
    step(busy, model, optimizer, waits=0.0)  # the first one of a process loads what it needs
    step(busy, model, optimizer, waits=0.2)
    assert sum(busy.seconds().values()) < 0.1


def test_each_part_has_its_own_time() -> None:
    model = Model(seconds=0.05)
    busy, optimizer = parts(model)
    optimizer.register_step_pre_hook(lambda *_: time.sleep(0.06))
    step(busy, model, optimizer, waits=0.1, works=0.05)
    found = busy.seconds()
    assert set(found) == {"forward", "backward", "optimizer"}
    assert found["forward"] >= 0.05
    assert found["optimizer"] >= 0.06
    assert found["backward"] >= 0.05


def test_a_process_that_is_held_up_in_the_forward_pass_is_so_in_the_backward_pass() -> None:
    busy, optimizer = parts(model := Model(seconds=0.2))
    model.register_forward_pre_hook(lambda *_: compute(0.02))
    step(busy, model, optimizer, waits=0.2, works=0.1)
    found = busy.seconds()
    assert found["forward"] >= 0.22
    # Of 0.3 s it computed 0.1; by the forward pass it was held up for all the rest of it.
    assert 0.15 < found["backward"] < 0.6


def test_where_no_module_is_alone_passes_are_one() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    busy = Busy(CPU, alone=(), optimizer=optimizer)
    step(busy, model, optimizer, works=0.03, waits=0.1)
    found = busy.seconds()
    assert 0.03 <= found["passes"] < 0.1
    assert "forward" not in found


def test_a_part_that_is_no_module_and_a_rank_without_an_optimizer() -> None:
    busy = Busy(CPU, alone=[Model()], optimizer=None)
    busy.begin()
    with busy.forward():
        time.sleep(0.02)
    assert busy.seconds()["forward"] >= 0.02


def test_what_is_run_outside_of_a_step_counts_nowhere() -> None:
    busy, optimizer = parts(model := Model(seconds=0.02))
    step(busy, model, optimizer)
    busy.seconds()
    model(torch.ones(2, 8))  # an evaluation
    model.seconds = 0.0
    step(busy, model, optimizer)
    assert busy.seconds()["forward"] < 0.02


def test_what_is_not_timed_any_more_is_taken_to_last_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a rank with more micro-batches would look faster."""
    monkeypatch.setattr("toolkit.engines.common.busy._MOST_INTERVALS", 4)
    model = Model(seconds=0.01)
    busy, _ = parts(model)
    busy.begin()
    for _ in range(12):
        model(torch.ones(2, 8))
    found = busy.seconds()
    assert 0.12 <= found["forward"] <= 0.2
    assert found["backward"] < 0.05
