"""Both ways between Meta's layout and Hugging Face's: the same tensors and logits, or one error and no folder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from meta_models import LLAMA3, rewrite, write_hf, write_meta
from toolkit.checkpoints.convert import Conversion, ConvertOptions, convert_model
from toolkit.errors import ToolkitError
from toolkit.models.meta_format import meta_name

WQ = "layers.1.attention.wq.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"
STRETCHED = {"rope_type": "llama3", "rope_theta": 500_000.0, **LLAMA3}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture
def broken(hf: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(hf, tmp_path / "broken")


def convert(source: Path, target: Path, **options: Any) -> Conversion:
    return convert_model(source, target, ConvertOptions(**options))


def logits(folder: Path) -> torch.Tensor:
    """Of the whole model, by transformers itself, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(2 * 24).view(2, 24) * 7 % model.config.vocab_size
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def difference(one: Path, other: Path) -> float:
    return float((logits(one) - logits(other)).abs().max())


def tensors_of(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pth"))]


def same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Names, dtypes, shapes and bytes."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8))
        for name in one
    )


def refusal(source: Path, target: Path, **options: Any) -> str:
    """The one line of a refused conversion, which leaves nothing behind."""
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(ToolkitError) as failure:
        convert(source, target, **options)
    assert sorted(target.parent.rglob("*")) == before
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.mark.parametrize(
    ("shards", "by_rows", "tied", "rope", "dtype"),
    [
        (1, False, False, None, torch.float32),
        (2, False, True, None, torch.bfloat16),
        (2, True, False, STRETCHED | {"factor": 8.0}, torch.bfloat16),
        (4, True, True, STRETCHED | {"factor": 32.0}, torch.float32),
        (4, False, False, {"rope_type": "default", "rope_theta": 1e6}, torch.float16),
    ],
)
def test_there_and_back(tmp_path: Path, shards: int, by_rows: bool, tied: bool, rope: Any, dtype: torch.dtype) -> None:
    hf = write_hf(tmp_path / "hf", tied=tied, rope=rope, dtype=dtype)
    keys = {"rope_theta": rope["rope_theta"], "use_scaled_rope": rope["rope_type"] == "llama3"} if rope else {}
    meta = write_meta(tmp_path / "meta", hf, shards=shards, by_rows=by_rows, **keys)

    done = convert(meta, tmp_path / "from meta", max_seq_len=2048)
    assert (done.layout, done.num_files, done.dtype) == ("hf", 1, str(dtype).removeprefix("torch."))
    assert done.logit_difference <= TOLERANCE
    assert same_tensors(load_file(tmp_path / "from meta" / "model.safetensors"), load_file(hf / "model.safetensors"))
    assert difference(hf, tmp_path / "from meta") == 0.0

    split = "rows" if by_rows else "columns"
    done = convert(tmp_path / "from meta", tmp_path / "again", num_shards=shards, vocab_split=split)
    assert (done.layout, done.num_files) == ("meta", shards)
    assert done.logit_difference <= TOLERANCE
    for ours, theirs in zip(tensors_of(tmp_path / "again"), tensors_of(meta), strict=True):
        # Old files hold the frequencies too, and so do those that are divided as they were.
        assert ours.pop("rope.freqs", None) is None if by_rows else ours.pop("rope.freqs").shape == (4,)
        assert same_tensors(ours, theirs)


def test_a_pickled_source(broken: Path, tmp_path: Path) -> None:
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    convert(broken, tmp_path / "one", num_shards=2)
    (broken / "model.safetensors").unlink()
    convert(broken, tmp_path / "other", num_shards=2)
    for one, other in zip(tensors_of(tmp_path / "one"), tensors_of(tmp_path / "other"), strict=True):
        assert same_tensors(one, other)


def test_a_head_left_out_by_meta(tmp_path: Path) -> None:
    hf = write_hf(tmp_path / "hf", tied=True)
    meta = write_meta(tmp_path / "meta", hf, shards=2)
    for path in meta.glob("*.pth"):
        rewrite(path, {"output.weight": None})
    assert convert(meta, tmp_path / "new").spec.tied_embeddings
    assert difference(hf, tmp_path / "new") == 0.0


def test_the_real_model(shared_data: Path, tmp_path: Path) -> None:
    models = shared_data / "models"
    hf = models / "stories260K-hf-fp32"
    for shards in (1, 2):
        meta = models / f"stories260K-meta-{shards}shard"
        done = convert(meta, tmp_path / f"hf{shards}", tokenizer=hf)
        assert done.logit_difference <= TOLERANCE
        weights = load_file(tmp_path / f"hf{shards}" / "model.safetensors")
        assert same_tensors(weights, load_file(hf / "model.safetensors"))
        assert difference(hf, tmp_path / f"hf{shards}") <= TOLERANCE
        assert (tmp_path / f"hf{shards}" / "tokenizer.json").read_bytes() == (hf / "tokenizer.json").read_bytes()
        convert(tmp_path / f"hf{shards}", tmp_path / f"meta{shards}", num_shards=shards)
        for ours, theirs in zip(tensors_of(tmp_path / f"meta{shards}"), tensors_of(meta), strict=True):
            assert same_tensors(ours, theirs)
        assert (tmp_path / f"meta{shards}" / "tokenizer.model").read_bytes() == (meta / "tokenizer.model").read_bytes()
    done = convert(models / "stories260K-hf-bf16", tmp_path / "four", num_shards=4, vocab_split="rows")
    assert (done.dtype, done.num_files) == ("bfloat16", 4)
    assert done.logit_difference <= TOLERANCE


def test_dtypes_can_be_changed_and_made_one(hf: Path, tmp_path: Path) -> None:
    meta = write_meta(tmp_path / "meta", hf, shards=2)
    halves = torch.load(meta / "consolidated.01.pth", weights_only=True)
    rewrite(meta / "consolidated.01.pth", {WQ: halves[WQ].bfloat16()})
    assert f"consolidated.01.pth: {WQ} is bfloat16, others are float32, --dtype makes them one" in refusal(
        meta, tmp_path / "new"
    )
    assert convert(meta, tmp_path / "new", dtype="bf16").dtype == "bfloat16"
    expected = {name: tensor.bfloat16() for name, tensor in load_file(hf / "model.safetensors").items()}
    assert same_tensors(load_file(tmp_path / "new" / "model.safetensors"), expected)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert "--dtype int8: needs fp32, bf16, fp16" in refusal(meta, tmp_path / "other", dtype="int8")


def test_many_files_and_their_index(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = write_meta(tmp_path / "meta", hf, shards=2)
    monkeypatch.setattr("toolkit.checkpoints.layouts._FILE_BYTES", 100_000)
    assert convert(meta, tmp_path / "new").num_files > 3
    assert difference(hf, tmp_path / "new") == 0.0
    index = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in load_file(hf / "model.safetensors").values())
    # And back from several files.
    assert convert(tmp_path / "new", tmp_path / "again").logit_difference <= TOLERANCE


def test_what_is_said_of_the_tokenizer_and_the_length(hf: Path, tmp_path: Path) -> None:
    meta = write_meta(tmp_path / "meta", hf)
    (meta / "tokenizer.model").write_bytes(b"pieces")
    notes = convert(meta, tmp_path / "new").notes
    assert notes[0].startswith("max_position_embeddings 4096: params.json does not say it")
    assert notes[1] == f"tokenizer: tokenizer.model copied from {meta}"
    assert notes[2] == "tokenizer: no tokenizer.json there; --tokenizer names a folder that has it"
    notes = convert(tmp_path / "new", tmp_path / "again", tokenizer=hf).notes
    assert notes[0] == "max_position_embeddings 4096 is not kept: params.json has no key for it"
    assert notes[1] == f"tokenizer: nothing copied from {hf}"


def test_a_folder_in_the_way(hf: Path, tmp_path: Path) -> None:
    target = tmp_path / "models" / "new"
    convert(hf, target)
    assert "is there already; give --overwrite" in refusal(hf, target)
    convert(hf, target, num_shards=2, overwrite=True)
    assert sorted(path.name for path in target.iterdir()) == [
        "consolidated.00.pth",
        "consolidated.01.pth",
        "params.json",
    ]
    assert [path.name for path in target.parent.iterdir()] == ["new"]


def test_what_overwrite_does_not_remove(hf: Path, tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.png").write_bytes(b"meow")
    link = tmp_path / "link"
    link.symlink_to(write_meta(tmp_path / "meta", hf))
    for target in (other, link, other / "cat.png"):
        assert "--overwrite does not replace it" in refusal(hf, target, overwrite=True)
    source = shutil.copytree(hf, tmp_path / "meta" / "inside")
    for target in (source, tmp_path / "meta"):
        assert "is or holds the source" in refusal(source, target, overwrite=True)


def test_a_failed_replacement_keeps_what_was_there(hf: Path, broken: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    convert(hf, target)
    damage(broken, lambda weights: weights[QUERY].fill_(float("nan")))
    assert "holds NaN or Inf" in refusal(broken, target, overwrite=True)
    assert convert(target, tmp_path / "again").logit_difference <= TOLERANCE


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"num_shards": 3},
            "--shards 3 does not divide 8 heads, 4 key-value heads, 176 columns inside the MLP; use 1, 2, 4",
        ),
        ({"num_shards": 8}, "--shards 8 does not divide 4 key-value heads; use 1, 2, 4"),
        ({"num_shards": 0}, "--shards 0 does not divide"),
        ({"vocab_split": "heads"}, "--vocab-split heads: needs rows or columns"),
        ({"max_seq_len": 64}, "--max-seq-len is for writing config.json"),
    ],
)
def test_options_that_do_not_fit(hf: Path, tmp_path: Path, options: dict[str, Any], told: str) -> None:
    assert told in refusal(hf, tmp_path / "new", **options)


def test_options_of_the_other_direction(hf: Path, tmp_path: Path) -> None:
    meta = write_meta(tmp_path / "meta", hf)
    told = refusal(meta, tmp_path / "new", num_shards=2, vocab_split="rows")
    assert told == f"--shards and --vocab-split is for writing Meta's layout, and {meta} is in it; leave it out"


def test_sources_that_are_none(hf: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    assert "holds neither params.json (Meta's layout) nor config.json" in refusal(tmp_path / "nowhere", target)
    both = write_meta(tmp_path / "both", hf)
    shutil.copyfile(hf / "config.json", both / "config.json")
    assert "holds params.json and config.json" in refusal(both, target)


def damage(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda weights: weights.pop(QUERY), f"missing keys in its weights: {QUERY}"),
        (
            lambda weights: weights.update({QUERY: torch.zeros(63, 64)}),
            f"mismatched keys in its weights: {QUERY} is (63",
        ),
        (lambda weights: weights.update({QUERY: torch.zeros(0)}), f"{QUERY} has no usable shape"),
        (lambda weights: weights.update({"x": torch.zeros(2)}), "unexpected keys in its weights: x"),
        (
            lambda weights: weights.update({QUERY: weights[QUERY].half()}),
            f"model.safetensors: {QUERY} is float16, model",
        ),
        (lambda weights: weights.update({QUERY: weights[QUERY].to(torch.int8)}), f"{QUERY} is 'I8', not one of"),
        (lambda weights: weights[QUERY].fill_(float("nan")), f"model.safetensors: {QUERY} holds NaN or Inf as float32"),
    ],
    ids=["missing", "misshapen", "empty", "extra", "mixed", "quantised", "nan"],
)
def test_weights_that_are_refused(
    broken: Path, tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object], told: str
) -> None:
    damage(broken, edit)
    assert told in refusal(broken, tmp_path / "new")
    if "I8" in told:  # no dtype makes weights of these
        assert told in refusal(broken, tmp_path / "new", dtype="fp32")


def test_files_that_are_refused(broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_meta(tmp_path / "meta", broken)
    monkeypatch.setattr("toolkit.checkpoints.layouts._FILE_BYTES", 100_000)
    convert(whole, tmp_path / "many")
    lost = tmp_path / "many" / "model-00002-of-00005.safetensors"
    content = lost.read_bytes()
    lost.write_bytes(content[:-10])
    assert f"{lost}: damaged (" in refusal(tmp_path / "many", tmp_path / "new")
    lost.unlink()
    assert str(lost) in refusal(tmp_path / "many", tmp_path / "new")


def test_numbers_that_a_dtype_does_not_hold(broken: Path, tmp_path: Path) -> None:
    damage(broken, lambda weights: weights[QUERY].mul_(1e7))
    assert "holds NaN or Inf as float16; use weights without" in refusal(broken, tmp_path / "new", dtype="fp16")
    meta = write_meta(tmp_path / "meta", broken, shards=2)
    part = torch.load(meta / "consolidated.01.pth", weights_only=True)[WQ]
    rewrite(meta / "consolidated.01.pth", {WQ: part.index_fill(0, torch.tensor([3]), float("inf"))})
    assert f"consolidated.01.pth: {WQ} holds NaN or Inf as float32" in refusal(meta, tmp_path / "new")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is gelu, needs silu"),
        ({"model_type": "mistral"}, "model_type is mistral, needs llama"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "rope_type yarn"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"num_hidden_layers": None}, "lacks num_hidden_layers"),
    ],
)
def test_models_that_meta_does_not_know(broken: Path, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = broken / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert told in refusal(broken, tmp_path / "new")


def test_a_full_disk_leaves_nothing(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    assert "consolidated.00.pth: cannot be written (RuntimeError: " in refusal(hf, tmp_path / "new")


def unchanged(weight: torch.Tensor, heads: int) -> torch.Tensor:
    return weight


def swapped(name: str) -> str:
    """Meta's name, gate for up."""
    gate, up = "mlp.gate_proj", "mlp.up_proj"
    return meta_name(name.replace(gate, up) if gate in name else name.replace(up, gate))


READ, WRITTEN = "toolkit.models.meta_weights", "toolkit.checkpoints.layouts"


@pytest.mark.parametrize(
    ("faults", "to_meta", "from_meta"),
    [
        ({f"{READ}.to_halves": unchanged}, "is not what was written", "logits of source"),
        ({f"{WRITTEN}.to_pairs": unchanged}, "is not what was written", None),
        # Reading and writing agree, and both are wrong.
        ({f"{READ}.to_halves": unchanged, f"{WRITTEN}.to_pairs": unchanged}, "logits of source", "logits of source"),
        ({f"{READ}.meta_name": swapped, f"{WRITTEN}.meta_name": swapped}, "logits of source", "logits of source"),
    ],
    ids=["reading", "writing", "order", "names"],
)
def test_planted_faults_are_found(
    hf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    faults: dict[str, Any],
    to_meta: str,
    from_meta: str | None,
) -> None:
    meta = write_meta(tmp_path / "meta", hf, shards=2)
    for place, fault in faults.items():
        monkeypatch.setattr(place, fault)
    assert to_meta in refusal(hf, tmp_path / "new")
    if from_meta is not None:
        assert from_meta in refusal(meta, tmp_path / "new")


PEAK = """
import sys
from pathlib import Path

import transformers.models.llama.modeling_llama

from toolkit.checkpoints.convert import ConvertOptions, convert_model

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

hf, meta, again = map(Path, sys.argv[1:])
before = memory("VmRSS")
for source, target, shards in ((hf, meta, 4), (meta, again, None)):
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    convert_model(source, target, ConvertOptions(num_shards=shards))
    print(memory("VmHWM") - before)
"""


@pytest.mark.soak
def test_memory_is_that_of_a_file_not_of_the_model(tmp_path: Path) -> None:
    """At most twice the largest of Meta's files, whatever their number; the libraries themselves take 0.36 GB more."""
    sizes = {"vocab_size": 8192, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
    hf = write_hf(tmp_path / "hf", **sizes, num_key_value_heads=8)  # 390 MB
    words = [sys.executable, "-c", PEAK, str(hf), str(tmp_path / "meta"), str(tmp_path / "again")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    largest = max(path.stat().st_size for path in (tmp_path / "meta").glob("*.pth"))
    assert largest > 95e6
    for growth in map(int, done.stdout.split()):  # measured with torch 2.13.0: 1.5 files both times
        assert growth < 2 * largest


def toolkit(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolkit", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_the_command(hf: Path, tmp_path: Path) -> None:
    done = toolkit("convert", hf, "meta", "--shards", 2, "--dtype", "bf16", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "parameters as bfloat16 in 2 files\nchecked: 21 tensors, read again, are the source's; logits" in done.stdout
    assert done.stdout.endswith("Written to meta, Meta's layout.\n")

    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "marker"),)

    torch.save({"tok_embeddings.weight": Payload()}, tmp_path / "meta" / "consolidated.01.pth")
    done = toolkit("convert", "meta", "new", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: meta/consolidated.01.pth: weights cannot be loaded (it asks for `posix mkdir`, which no tensor needs); "
        "give the model as safetensors\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meta"]
