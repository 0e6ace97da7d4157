"""A build that was killed must not stop every later run (torch alone waits for its mark for ever)."""

from pathlib import Path

import pytest

from procs import run_ranks
from ranks.op_builds import build_without_compiler, mark_is_there_while_loading

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize("another_loads", [False, True])
def test_only_a_mark_that_is_nobodys_is_removed(tmp_path: Path, another_loads: bool) -> None:
    (there,) = run_ranks(mark_is_there_while_loading, 1, tmp_path, another_loads)
    assert there == another_loads


def test_a_missing_compiler_is_told(tmp_path: Path) -> None:
    (told,) = run_ranks(build_without_compiler, 1, tmp_path, timeout_s=60)
    assert "no-such-compiler" in told
