"""A checkpoint on disk: any damage is found before anything is read from it, and none is ever half there."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from toolkit.checkpoints.identity import check_identity
from toolkit.checkpoints.manifest import HeldOutRecord, Manifest, Progress, UnknownFormat, file_entry
from toolkit.checkpoints.retention import kept_steps
from toolkit.checkpoints.shard import Shards, Staged, shard_name
from toolkit.checkpoints.store import Store, altered_file, read_manifest
from toolkit.engines.base import Piece, States
from toolkit.errors import CheckpointError
from toolkit.specs.reliability import CheckpointConfig

SHAPE = (6, 4)
STATES = ("weight", "exp_avg", "exp_avg_sq")
WHOLE = {key: torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed, key in enumerate(STATES)}
TRIALS = 1000


def piece(dim: int, low: int, high: int, start: int, stop: int) -> Piece:
    return Piece("w", SHAPE, dim=dim, low=low, high=high, start=start, stop=stop, owned=True)


def states_of(wanted: Piece) -> States:
    """Cut out of the whole tensor."""
    rows = (slice(None),) * wanted.dim + (slice(wanted.low, wanted.high),)
    return {key: whole[rows].reshape(-1)[wanted.start : wanted.stop].clone() for key, whole in WHOLE.items()}


# Ways to divide 6 x 4 numbers: whole, by ZeRO, by tensor parallelism along either dimension, by both.
DIVISIONS = {
    "whole": [piece(0, 0, 6, 0, 24)],
    "zero": [piece(0, 0, 6, 0, 7), piece(0, 0, 6, 7, 24)],
    "rows": [piece(0, 0, 3, 0, 12), piece(0, 3, 6, 0, 12)],
    "columns": [piece(1, 0, 2, 0, 12), piece(1, 2, 4, 0, 12)],
    "columns and zero": [piece(1, low, low + 2, start, start + 6) for low in (0, 2) for start in (0, 6)],
}


def write(store: Store, step: int, pieces: list[Piece]) -> Path:
    """As a run does, one rank after the other."""
    partial = store.partial(step, "test")
    partial.mkdir(parents=True)
    files = {}
    for rank, each in enumerate(pieces):
        staged = Staged()
        staged.fill([(each, states_of(each))], {"cpu": torch.get_rng_state()})
        files[shard_name(rank)] = staged.write(partial / shard_name(rank))
    (partial / "plan.json").write_text("{}")
    files["plan.json"] = file_entry(partial / "plan.json")
    manifest = Manifest(
        progress=Progress(step=step, num_updates=step),
        identity={"seed": "42"},
        num_ranks=len(pieces),
        strategy="test",
        precision="fp32",
        written="2026-01-01T00:00:00+00:00",
        versions={"toolkit": "0"},
        files=files,
    )
    manifest.save(partial)
    store.publish(partial, step)
    return store.folder(step)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "checkpoints")


def fault_of(folder: Path) -> str:
    """What a run that wants to go on from the checkpoint is told; empty if it is intact."""
    try:
        return altered_file(folder, read_manifest(folder), part=0, parts=1) or ""
    except CheckpointError as error:
        return str(error)


@pytest.mark.parametrize("saved", DIVISIONS)
@pytest.mark.parametrize("wanted", DIVISIONS)
def test_any_division_is_read_from_any_other(store: Store, saved: str, wanted: str) -> None:
    shards = Shards(write(store, 1, DIVISIONS[saved]), len(DIVISIONS[saved]))
    for each in DIVISIONS[wanted]:
        read, expected = shards.read(each), states_of(each)
        assert all(torch.equal(read[key], expected[key]) for key in STATES)


def test_pieces_that_are_missing_are_noticed(store: Store) -> None:
    for pieces in (DIVISIONS["zero"][:1], DIVISIONS["columns"][:1]):
        shards = Shards(write(store, len(store.steps()), pieces), 1)
        with pytest.raises(CheckpointError, match=r"w has 7 of 24 numbers|w is not whole"):
            shards.read(DIVISIONS["whole"][0])
    with pytest.raises(CheckpointError, match="holds no v; it is of another model"):
        shards.read(Piece("v", SHAPE, 0, 0, 6, 0, 24, owned=True))
    with pytest.raises(CheckpointError, match=r"has shape \(6, 4\), the model needs \(4, 6\)"):
        shards.read(Piece("w", (4, 6), 0, 0, 4, 0, 24, owned=True))


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    staged = Staged()
    states = {key: torch.tensor([1.0, torch.nan]) for key in STATES}
    staged.fill([(Piece("w", (2,), 0, 0, 2, 0, 2, owned=True), states)], {})
    with pytest.raises(CheckpointError, match="weight/w holds NaN or Inf"):
        staged.write(tmp_path / "rank")


def damages(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every file of a checkpoint in every state that a crash or a thief leaves it in."""
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        sizes = {"emptied": 0, "half": len(content) // 2, "one byte short": len(content) - 1}
        for how, size in sizes.items():
            yield f"{path.name} {how}", lambda path=path, content=content, size=size: path.write_bytes(content[:size])
        yield f"{path.name} longer", lambda path=path, content=content: path.write_bytes(content + b"x")
        yield f"{path.name} deleted", path.unlink
        yield f"{path.name} of zeros", lambda path=path, content=content: path.write_bytes(bytes(len(content)))


def test_every_damage_of_every_file_is_found(store: Store, tmp_path: Path) -> None:
    intact = write(store, 1, DIVISIONS["zero"])
    assert fault_of(intact) == ""
    names = [name for name, _ in damages(intact)]
    assert len(names) == 6 * len(list(intact.iterdir()))
    for number, name in enumerate(names):
        copy = Store(tmp_path / str(number)).folder(1)
        shutil.copytree(intact, copy)
        dict(damages(copy))[name]()
        # The message names the file, and what is wrong with it.
        assert name.split()[0] in fault_of(copy), name


def test_every_flipped_bit_is_found(store: Store) -> None:
    folder = write(store, 1, DIVISIONS["columns and zero"])
    chance = random.Random(5)
    files = sorted(folder.iterdir())
    found = 0
    for _ in range(TRIALS):
        path = chance.choice(files)
        content = bytearray(path.read_bytes())
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        content[place] ^= 1 << bit
        path.write_bytes(content)
        found += path.name in fault_of(folder)
        content[place] ^= 1 << bit
        path.write_bytes(content)
    assert found == TRIALS
    assert fault_of(folder) == ""


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/passwd", "a/../../b", "a/b", ".hidden", "", "x" * 129, "nul\0", "r\u0430nk", "a b", "a\n"],
)
def test_no_name_leaves_the_folder(store: Store, name: str) -> None:
    folder = write(store, 1, DIVISIONS["whole"])
    content = json.loads((folder / "manifest.json").read_text())
    entry = content["files"].pop("plan.json")
    content["files"][name] = entry
    rewrite(folder, content)
    with pytest.raises(CheckpointError, match="is no plain file name"):
        read_manifest(folder)


def rewrite(folder: Path, content: dict[str, object]) -> None:
    """A manifest that somebody changed, with the right digest."""
    from toolkit.checkpoints.manifest import _digest

    content.pop("digest", None)
    (folder / "manifest.json").write_text(json.dumps({**content, "digest": _digest(content)}))


def test_links_are_not_followed(store: Store, tmp_path: Path) -> None:
    folder = write(store, 1, DIVISIONS["whole"])
    outside = tmp_path / "outside"
    (folder / shard_name(0)).rename(outside)
    (folder / shard_name(0)).symlink_to(outside)
    assert "missing" in fault_of(folder)
    store.folder(2).symlink_to(folder)
    assert store.steps() == [1]


def test_a_newer_format_is_not_passed_over(store: Store) -> None:
    folder = write(store, 1, DIVISIONS["whole"])
    content = json.loads((folder / "manifest.json").read_text())
    rewrite(folder, {**content, "format": 2, "versions": {"toolkit": "9.9"}})
    with pytest.raises(UnknownFormat, match=r"has format 2, this version reads 1; use .+\(9.9\)"):
        read_manifest(folder)


def test_a_renamed_checkpoint_is_noticed(store: Store) -> None:
    write(store, 1, DIVISIONS["whole"]).rename(store.folder(7))
    with pytest.raises(CheckpointError, match="is of step 1; the folder was renamed"):
        read_manifest(store.folder(7))


def test_the_newest_is_told_by_its_number(store: Store) -> None:
    for step in (30, 4, 100):
        write(store, step, DIVISIONS["whole"])
    (store.path / "step-nonsense").mkdir()
    assert store.steps() == [100, 30, 4]
    assert (store.path / "latest").read_text() == "step-00000100\n"


def test_what_a_kill_left_is_removed_and_nothing_else(store: Store) -> None:
    write(store, 1, DIVISIONS["whole"])
    for name in (".step-00000002.ab12.partial", ".step-00000000.removed"):
        (store.path / name).mkdir()
        (store.path / name / "file").write_text("x")
    (store.path / ".latest.partial").write_text("step")
    (store.path / "mine.txt").write_text("x")
    store.clean()
    assert sorted(path.name for path in store.path.iterdir()) == ["latest", "mine.txt", "step-00000001"]


def test_which_checkpoints_stay(store: Store) -> None:
    for step in (1, 2, 3, 4, 5, 6):
        write(store, step, DIVISIONS["whole"])
    manifests = {
        step: manifest.model_copy(update={"held_out_loss": {2: 0.5, 5: 0.7}.get(step)})
        for step, manifest in store.manifests().items()
    }
    assert kept_steps(manifests, CheckpointConfig(), published=6) == {5, 6}
    assert kept_steps(manifests, CheckpointConfig(keep_last=3, keep_every=3), published=6) == {3, 4, 5, 6}
    assert kept_steps(manifests, CheckpointConfig(keep_best=True), published=6) == {2, 5, 6}
    exporting = HeldOutRecord(best=1.0, best_step=4)
    manifests[6] = manifests[6].model_copy(update={"progress": Progress(step=6, held_out=exporting)})
    assert kept_steps(manifests, CheckpointConfig(), published=6) == {4, 5, 6}
    store.retain({5, 6})
    assert store.steps() == [6, 5]


def test_what_was_passed_over_takes_nobodys_place(store: Store) -> None:
    """Checkpoints 20 and 30 look whole, and were found damaged when the run went on from 10."""
    for step in (10, 12, 20, 30):
        write(store, step, DIVISIONS["whole"])
    better = HeldOutRecord(best=1.0, best_step=20)
    manifests = store.manifests()
    manifests[30] = manifests[30].model_copy(
        update={"held_out_loss": 0.1, "progress": Progress(step=30, held_out=better)}
    )
    manifests[10] = manifests[10].model_copy(update={"held_out_loss": 0.5})
    assert kept_steps(manifests, CheckpointConfig(keep_best=True), published=12) == {10, 12, 20, 30}
    manifests[14] = manifests[12].model_copy(update={"progress": Progress(step=14)})
    assert kept_steps(manifests, CheckpointConfig(keep_best=True), published=14) == {10, 12, 14, 20, 30}
    assert kept_steps(manifests, CheckpointConfig(), published=14) == {12, 14, 20, 30}


def test_later_checkpoints_are_set_aside_whole(store: Store) -> None:
    for step in (10, 20, 30):
        write(store, step, DIVISIONS["whole"])
    aside = store.set_aside(after=10)
    assert aside is not None
    assert store.steps() == [10]
    assert (store.path / "latest").read_text() == "step-00000010\n"
    assert [fault_of(Store(aside).folder(step)) for step in (20, 30)] == ["", ""]
    store.clean()
    store.retain({10})
    assert Store(aside).steps() == [30, 20]
    assert store.set_aside(after=10) is None


def test_another_run_is_told_by_what_differs() -> None:
    with pytest.raises(CheckpointError, match=r"seed was 1, is 2; change it back, train in another folder"):
        check_identity("step-1", {"seed": "1", "method": "full"}, {"seed": "2", "method": "full"})
