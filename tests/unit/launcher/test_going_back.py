"""What ranks are started with after a fault, where the run was sent back to an older checkpoint."""

from pathlib import Path

import pytest

from toolkit.checkpoints.store import Store
from toolkit.launcher.run import latest_written, options_to_go_on
from toolkit.run_folder import RunFolder

BACK, AUTO = ["--resume", "10"], ["--resume", "auto"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    for step in (10, 20, 30):
        publish(folder, step)
    return folder


def publish(run: RunFolder, step: int) -> None:
    store = Store(run.checkpoints)
    store.partial(step, "test").mkdir(parents=True)
    store.publish(store.partial(step, "test"), step)


def test_ranks_that_have_not_gone_back_yet_still_have_to(run: RunFolder) -> None:
    assert options_to_go_on(run, BACK, began=latest_written(run)) == BACK


def test_ranks_that_have_gone_back_go_on_from_there(run: RunFolder) -> None:
    began = latest_written(run)
    Store(run.checkpoints).set_aside(after=10)
    assert options_to_go_on(run, BACK, began=began) == AUTO
    publish(run, 30)  # which is what the newest was called before
    assert options_to_go_on(run, BACK, began=began) == AUTO


@pytest.mark.parametrize("options", [[], ["--overwrite"], AUTO])
def test_any_other_run_goes_on_from_its_newest(run: RunFolder, options: list[str]) -> None:
    assert options_to_go_on(run, options, began=latest_written(run)) == AUTO
