"""Meta's files, however divided, are the tensors of the Hugging Face folder, or are refused by file and tensor."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from meta_models import rewrite, write_hf, write_meta
from toolkit.errors import ToolkitError
from toolkit.models.meta_format import MetaFiles
from toolkit.models.meta_weights import MetaWeights, is_finite

WQ, WO = "layers.0.attention.wq.weight", "layers.1.attention.wo.weight"


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture(scope="module")
def two(hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meta(tmp_path_factory.mktemp("two") / "meta", hf, shards=2)


@pytest.fixture
def broken(two: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(two, tmp_path / "meta")


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ToolkitError) as failure:
        MetaFiles(folder, **options)
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.mark.parametrize("by_rows", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_every_division_is_the_same_model(hf: Path, tmp_path: Path, shards: int, by_rows: bool) -> None:
    files = MetaFiles(write_meta(tmp_path / "meta", hf, shards=shards, by_rows=by_rows))
    expected = load_file(hf / "model.safetensors")
    weights = MetaWeights(files, expected)
    assert len(files.paths) == shards
    assert not files.tied
    for name, tensor in expected.items():
        assert weights.shapes[name] == tuple(tensor.shape)
        assert torch.equal(weights.read(name, torch.float32), tensor), name
    # A third of the rows, which lie in two of four files.
    some = range(20, 52)
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.down_proj.weight"):
        assert torch.equal(weights.read(name, torch.float32, rows=some), expected[name][20:52])
    heads = range(8, 24)  # the second and third of 8
    query = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(weights.read(query, torch.bfloat16, rows=heads), expected[query][8:24].bfloat16())


def test_a_tied_head_is_there_twice_or_left_out(tmp_path: Path) -> None:
    hf = write_hf(tmp_path / "hf", tied=True)
    meta = write_meta(tmp_path / "meta", hf, shards=2, by_rows=True)
    assert MetaFiles(meta).tied
    for path in meta.glob("*.pth"):
        rewrite(path, {"output.weight": None})
    assert MetaFiles(meta).tied


def test_old_files_hold_frequencies_too(broken: Path) -> None:
    for path in broken.glob("*.pth"):
        extra = ("rope.freqs", "layers.0.attention.inner_attention.rope.freqs")
        rewrite(path, {name: torch.ones(4, dtype=torch.float16) for name in extra})
    assert "rope.freqs" not in MetaFiles(broken).shapes


def test_a_truncated_file(broken: Path) -> None:
    path = broken / "consolidated.01.pth"
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(broken).startswith(f"{path}: weights cannot be loaded (")
    path.write_bytes(b"")
    assert refusal(broken).startswith(f"{path}: weights cannot be loaded (")


@pytest.mark.parametrize(("lost", "named"), [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_a_missing_file(hf: Path, tmp_path: Path, lost: int, named: int) -> None:
    folder = write_meta(tmp_path / "meta", hf, shards=4)
    (folder / f"consolidated.{lost:02d}.pth").unlink()
    text = refusal(folder)
    assert f"consolidated.{named:02d}.pth" in text
    assert "missing" in text
    if lost == 3:  # the numbers have no gap: a tensor tells
        assert f"{WQ} has 16 of 64 rows, so the model is divided into 4, found 3" in text


def test_a_file_twice(broken: Path) -> None:
    shutil.copyfile(broken / "consolidated.00.pth", broken / "consolidated.01.pth")
    text = refusal(broken)
    assert f"consolidated.01.pth: {WQ} and all others are those of consolidated.00.pth, one file is there twice" in text


def test_a_file_too_many(broken: Path) -> None:
    shutil.copyfile(broken / "consolidated.00.pth", broken / "consolidated.02.pth")
    assert "divided into 2, found 3 of the files: some are of another set" in refusal(broken)


def test_a_file_of_another_division(hf: Path, broken: Path, tmp_path: Path) -> None:
    other = write_meta(tmp_path / "four", hf, shards=4)
    shutil.copyfile(other / "consolidated.01.pth", broken / "consolidated.01.pth")
    text = refusal(broken)
    assert "consolidated.01.pth: layers.0.attention.wk.weight is (8, 64), needs (16, 64); " in text


def test_a_file_of_another_model(broken: Path) -> None:
    rewrite(broken / "consolidated.01.pth", {"layers.1.ffn_norm.weight": torch.full((64,), 0.7)})
    assert "consolidated.01.pth: layers.1.ffn_norm.weight is another than in consolidated.00.pth" in refusal(broken)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({WO: torch.zeros(64, 31)}, f"{WO} is (64, 31), needs (64, 32); "),
        ({WO: torch.zeros(0)}, f"{WO} is (0,), needs (64, 32); "),
        ({WO: None}, f"{WO} is missing; "),
        ({"layers.2.ffn_norm.weight": torch.zeros(64)}, "layers.2.ffn_norm.weight is not part of the model; "),
        ({WO: torch.zeros(64, 32).half()}, f"{WO} is float16, others are float32, --dtype makes them one; "),
        ({WO: torch.zeros(64, 32).double()}, f"{WO} is float64, needs float32, bfloat16, float16; "),
        ({WO: None, WQ: None}, f"{WQ} is missing; {WO} is missing; "),
    ],
)
def test_tensors_that_do_not_fit(broken: Path, changes: dict[str, Any], told: str) -> None:
    path = broken / "consolidated.01.pth"
    rewrite(path, changes)
    assert refusal(broken).startswith(f"{path}: {told}")


def test_mixed_dtypes_where_they_are_made_one(broken: Path) -> None:
    whole = torch.load(broken / "consolidated.01.pth", weights_only=True)[WO]
    rewrite(broken / "consolidated.01.pth", {WO: whole.bfloat16()})
    read = MetaFiles(broken, mixed=True).read(WO, torch.float32)
    assert torch.equal(read[:, 32:], whole.bfloat16().float())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"multiple_of": 256}, "feed_forward.w1.weight is (88, 64), needs (128, 64)"),
        ({"n_kv_heads": 2}, "wk.weight is (16, 64), needs (8, 64)"),
        ({"n_kv_heads": 1}, "2 files do not divide 1 key-value heads"),
        ({"vocab_size": 97}, "2 files do not divide 97 rows of the vocabulary"),
        ({"vocab_size": 98}, "output.weight is (48, 64), needs (49, 64)"),
        ({"n_layers": 3}, "layers.2.attention.wq.weight is missing"),
        ({"n_layers": 10**12}, "layers.999999999999.attention.wq.weight is missing"),
        ({"n_layers": 1}, "layers.1.attention.wk.weight is not part of the model"),
        ({"dim": 128}, "wq.weight has 32 of 128 rows, so the model is divided into 4"),
        ({"dim": 60}, "dim 60 is not a multiple of 2 x 8 heads"),
        ({"n_heads": None}, "key `n_heads` is missing"),
        ({"moe_args": {}}, "unknown key `moe_args`"),
        ({"dim": "wide"}, "`dim` is 'wide'"),
    ],
)
def test_params_of_another_model(broken: Path, changes: dict[str, Any], told: str) -> None:
    path = broken / "params.json"
    given = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in given.items() if value is not None}))
    with pytest.raises(ToolkitError) as failure:
        MetaFiles(broken)
    assert told in str(failure.value)


def test_no_weights(broken: Path) -> None:
    for path in broken.glob("*.pth"):
        path.unlink()
    assert "holds params.json but no consolidated.00.pth" in refusal(broken)


class Payload:
    """What a hostile file would run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def hostile_files(path: Path, marker: Path) -> dict[str, Any]:
    """Ways to hide the payload; each writes `path`."""
    good = {name: torch.zeros(2) for name in ("tok_embeddings.weight", WQ)}

    def in_archive() -> None:
        torch.save(good, path)
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, content in records.items():
                archive.writestr(name, pickle.dumps(Payload(marker)) if name.endswith("data.pkl") else content)

    return {
        "value": lambda: torch.save(good | {WO: Payload(marker)}, path),
        "whole": lambda: torch.save(Payload(marker), path),
        "record": in_archive,
        "bare pickle": lambda: path.write_bytes(pickle.dumps(Payload(marker))),
        "old torch": lambda: torch.save(Payload(marker), path, _use_new_zipfile_serialization=False),
    }


@pytest.mark.parametrize("way", ["value", "whole", "record", "bare pickle", "old torch"])
def test_code_in_a_file_is_never_run(broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, marker = broken / "consolidated.01.pth", tmp_path / "marker"
    hostile_files(path, marker)[way]()
    text = refusal(broken)
    assert text.startswith(f"{path}: ")
    assert "weights_only" not in text  # torch's advice to load it all the same
    assert not marker.exists()
    # The payload does work.
    if way == "bare pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_other_things_than_tensors(broken: Path) -> None:
    path = broken / "consolidated.01.pth"
    for content in ([torch.zeros(2)], {"a": 1}, 3):
        torch.save(content, path)
        assert f"{path}: weights cannot be loaded (" in refusal(broken)
        assert "needs tensors by name" in refusal(broken)


def test_an_old_torch_reads_no_pickles(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1"))
    assert "torch 2.9.1 does not read safely; install torch 2.10" in refusal(broken)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite(dtype: torch.dtype) -> None:
    tensor = torch.randn(5, 7).to(dtype)
    assert is_finite(tensor)
    for value in (float("nan"), float("inf"), -float("inf")):
        assert not is_finite(tensor.index_fill(0, torch.tensor([2]), value))
