"""Checkpoints in a server of S3's protocol and behind a real sshd, as in a folder: saved, gone on from, removed."""

import os
import shutil
from pathlib import Path

import pytest
from far_servers import s3, sftp  # noqa: F401 (fixtures)

from toolkit.checkpoints.far_store import FarStore
from toolkit.errors import FarError
from toolkit.far import Place
from toolkit.run_folder import RunFolder
from unit.checkpoints.test_far import Loads, go_on, run, save  # noqa: F401 (a fixture)


@pytest.mark.parametrize("kind", [pytest.param("s3", marks=pytest.mark.soak), "sftp"])
def test_saves_goes_on_keeps_two_and_begins_anew(
    run: RunFolder,  # noqa: F811
    kind: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url: str = request.getfixturevalue(kind)
    assert save(run, url, [1, 2, 3]) == [None] * 3
    store = FarStore(url)
    assert store.steps() == [3, 2]
    assert go_on(run, url) == 3
    # A save that did not end, and one whose file was cut short.
    store.place.write("step-00000004.0123abcd/rank-00000.safetensors", b"half")
    newest = store.find(3)[0].name
    store.place.write(f"{newest}/rank-00000.safetensors", b"cut short")
    assert go_on(run, url) == 2
    assert f"{newest}/rank-00000.safetensors: has 9 bytes" in capsys.readouterr().out
    assert [one.step for one in FarStore(url).attempts()] == [3, 2]
    assert FarStore(url).set_aside(after=2) == "set-aside-1.json"
    assert FarStore(url).steps() == [2]
    for attempt in FarStore(url).attempts():
        store.retire(attempt)
    assert FarStore(url).attempts() == []
    assert "planted-secret-key" not in run.recipe.read_text()


@pytest.mark.soak
def test_what_is_not_there_is_told_with_the_url_alone(
    s3: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("toolkit.far._WAITS", (0.0,))
    with pytest.raises(FarError, match=r"s3://nobodys-bucket/run/name: cannot be written") as caught:
        Place("s3://nobodys-bucket/run").write("name", b"x")
    assert "planted-secret-key" not in str(caught.value)


def test_a_host_that_nobody_knows_is_refused(
    sftp: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("toolkit.far._WAITS", (0.0,))
    monkeypatch.setenv("HOME", str(shutil.copytree(Path(os.environ["HOME"]), tmp_path / "other")))
    (tmp_path / "other/.ssh/known_hosts").write_text("")
    with pytest.raises(FarError, match="cannot be listed"):
        Place(sftp).sizes()
