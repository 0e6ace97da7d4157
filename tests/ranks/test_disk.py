"""ZeRO-Infinity: what is offloaded to a disk goes there and comes back, and nothing else changes."""

from pathlib import Path
from typing import Any

import pytest

import toolkit
from procs import run_ranks
from ranks.equality import assert_equal, trained
from ranks.resuming import first_half, second_half
from ranks.runs import edited_ds_config, train_and_look_at_the_disk, write_run
from ranks.test_resume import STOP, assert_bit_equal
from ranks.test_resume import run as run_half
from ranks.tiny import write_model
from toolkit.engines.ds.config import load_ds_config
from toolkit.engines.ds.processes import make_swap_folder
from toolkit.errors import ConfigError, MachineError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder

pytestmark = pytest.mark.ranks
needs_libaio = pytest.mark.skipif(
    not Path("/usr/include/libaio.h").exists(), reason="needs libaio (Debian: apt install libaio-dev)"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DeepSpeed swaps nothing that is smaller than 1 MiB: a rank's share of these layers is larger."""
    return write_model(
        tmp_path_factory.mktemp("models") / "large",
        spread=0.02,
        hidden_size=512,
        intermediate_size=1024,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_hidden_layers=1,
    )


@needs_libaio
# The op that reads and writes is compiled on first use: five minutes of a core.
@pytest.mark.soak
@pytest.mark.timeout(600)
def test_states_and_weights_are_swapped_and_nothing_changes(tmp_path: Path, large: Path) -> None:
    in_memory = trained(write_run(tmp_path / "in memory", large, zero_stage=3, offload="all"))
    run = write_run(tmp_path / "run", large, zero_stage=3, offload="all", offload_to="nvme")
    with edited_ds_config(run) as config:
        # As large as a layer: the default takes the whole model at once.
        config["zero_optimization"]["sub_group_size"] = 1_000_000
    seen = run_ranks(train_and_look_at_the_disk, 2, run, timeout_s=500)
    # Two moments of four bytes for this rank's half of the weights, read and written once a step.
    states = 2 * 4 * sum(weight.numel() for weight in in_memory.weights.values()) / 2
    for rank, (on_disk, read, written, largest) in enumerate(seen):
        assert read > len(on_disk.steps) * states, rank
        assert written > len(on_disk.steps) * states, rank
        assert largest > states, rank
    # Both by DeepSpeedCPUAdam, whose roundings grow faster in a model of this width than torch's (4e-5 in 20 steps).
    assert_equal(seen[0][0].steps, in_memory.steps, loss=3e-6, norm=1e-5)
    assert not list((run / "offload").rglob("*.swp"))


@needs_libaio
@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("offload", ["optimizer", "all"])
def test_a_run_that_swaps_goes_on_bit_for_bit(tmp_path: Path, large: Path, offload: str) -> None:
    folder = write_run(tmp_path / "run", large, zero_stage=3, offload=offload, offload_to="nvme")
    with edited_ds_config(folder) as config:
        config["zero_optimization"]["sub_group_size"] = 1_000_000
    whole = run_half(first_half, folder, tmp_path / "store", STOP, True)
    assert_bit_equal(run_half(second_half, folder, tmp_path / "store"), whole)


@pytest.mark.parametrize(
    ("where", "change", "told"),
    [
        ("offload_optimizer", {"device": "nvme"}, "`zero_optimization.offload_optimizer.nvme_path` is missing"),
        ("stage", 2, "`zero_optimization.offload_optimizer.device` is nvme, which ZeRO-3 alone can"),
    ],
)
def test_an_edit_that_no_disk_can_serve_is_refused(
    tmp_path: Path, untied: Path, where: str, change: Any, told: str
) -> None:
    run = write_run(tmp_path / "run", untied, zero_stage=3, offload="optimizer", offload_to="nvme")
    with edited_ds_config(run) as config:
        config["zero_optimization"][where] = change
    with pytest.raises(ConfigError) as failure:
        load_ds_config(RunFolder(run), Plan.load(RunFolder(run).plan))
    assert told in str(failure.value)


def test_a_machine_without_libaio_starts_no_process(
    tmp_path: Path, untied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", untied, zero_stage=3, offload="optimizer", offload_to="nvme")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.setattr("toolkit.launcher.here.Attempt", lambda *_, **__: pytest.fail("processes were started"))
    with pytest.raises(MachineError, match=r"needs libaio, not found here; install libaio .+--offload-to cpu"):
        toolkit.launch(run)


@needs_libaio
@pytest.mark.soak
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AssertionError, match=r"MachineError: .+/file/offload: cannot be written \(Not a directory\)"):
        run_ranks(make_swap_folder, 1, tmp_path / "file" / "offload", timeout_s=300)
