"""S4: names in a model's index are names of files beside it, and no link leads out of the folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import CheckpointError
from toolkit.models.weights import WeightFiles

PLAIN = "model-00001-of-00001.safetensors"
BAD_NAMES = [
    "../stolen.safetensors",
    "/etc/stolen.safetensors",
    "a/../../stolen.safetensors",
    "folder/stolen.safetensors",
    "..\\stolen.safetensors",
    "..",
    ".",
    "",
    ".stolen.safetensors",
    "-stolen.safetensors",
    "~stolen.safetensors",
    "stolen.safetensors\0",
    "stolen\n.safetensors",
    "stolen.safetensors\n",
    "stolen .safetensors",
    "x" * 200 + ".safetensors",
    "x" * 1_000_000 + ".safetensors",
    "stоlen.safetensors",  # noqa: RUF001 (a Cyrillic o)
    "ｓtolen.safetensors",  # noqa: RUF001 (a wide s)
    "stolen․safetensors",  # noqa: RUF001 (a one dot leader)
    "stolen\u202esafetensors",
    "model\u2215stolen.safetensors",
    "%2e%2e%2fstolen.safetensors",
    "$(touch stolen).safetensors",
    "file://stolen.safetensors",
    "stolen.bin",
    "config.json",
    None,
    3,
    True,
    ["model.safetensors"],
    {"model.safetensors": 1},
]


def split(model: Path, name: Any) -> None:
    """The model as if it had several files, of which the index knows one."""
    (model / "model.safetensors").rename(model / PLAIN)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": PLAIN, "lm_head.weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def refusal(model: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        WeightFiles(str(model))
    return str(caught.value)


def test_a_plain_name_is_read(model: Path) -> None:
    split(model, PLAIN)
    assert "model.norm.weight" in WeightFiles(str(model)).shapes


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:30])
def test_other_names_are_refused(model: Path, name: Any) -> None:
    # Where a careless path would lead, there is a model.
    for stolen in (model.parent / "stolen.safetensors", model / "stolen.safetensors", model / "stolen.bin"):
        shutil.copy(model / "model.safetensors", stolen)
    split(model, name)
    text = refusal(model)
    assert "safetensors.index.json: `weight_map` has " in text
    assert "needs names of .safetensors files beside it; fetch the file again" in text
    assert len(text) < 1000


@pytest.mark.parametrize("weight_map", [None, [], "model.safetensors", 3, [PLAIN]])
def test_an_index_of_another_form(model: Path, weight_map: Any) -> None:
    split(model, PLAIN)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "`weight_map` has " in refusal(model)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"weight_map": {"a": "x.safetensors"}, "weight_map": {}}', "key `weight_map` is given twice"),
        ("[" * 100_000, "not usable JSON"),
        ("[]", "holds a list"),
        ('{"weight_map": {' + ",".join(f'"w{n}": "{PLAIN}"' for n in range(400_000)) + "}}", "more than 16,777,216"),
    ],
)
def test_a_broken_or_endless_index(model: Path, text: str, words: str) -> None:
    split(model, PLAIN)
    (model / "model.safetensors.index.json").write_text(text)
    assert words in refusal(model)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("through_a_folder", [False, True])
def test_links_out_of_the_folder_are_refused(model: Path, several: bool, through_a_folder: bool) -> None:
    if several:
        split(model, PLAIN)
    inside = model / (PLAIN if several else "model.safetensors")
    outside = model.parent / "elsewhere" / inside.name
    outside.parent.mkdir()
    inside.rename(outside)
    if through_a_folder:
        (model / "link").symlink_to(outside.parent)
    inside.symlink_to(f"link/{inside.name}" if through_a_folder else outside)
    assert f"{inside}: is a link to {outside}, outside of the model's folder; put the file itself" in refusal(model)


def test_links_inside_the_folder_and_to_the_folder_are_followed(model: Path) -> None:
    (model / "model.safetensors").rename(model / "weights")
    (model / "model.safetensors").symlink_to("weights")
    (model.parent / "link").symlink_to(model)
    assert WeightFiles(str(model.parent / "link")).shapes


@pytest.mark.parametrize("shared", [False, True])
def test_the_hubs_cache_is_made_of_links(model: Path, shared: bool) -> None:
    cache = model.parent / "hub"
    repository, store = cache / "models--someone--llama", cache / "blobs" / "0f"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    for folder in (snapshot, blobs, store):
        folder.mkdir(parents=True)
    for file in model.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/hash-of-{file.name}")
        if shared:  # the same file in several repositories, since huggingface_hub 2
            (blobs / f"hash-of-{file.name}").symlink_to(f"../../blobs/0f/hash-of-{file.name}")
        file.rename((store if shared else blobs) / f"hash-of-{file.name}")
    assert WeightFiles(str(snapshot)).shapes
    # Not into another repository.
    other = cache / "models--someone--else" / "blobs"
    other.mkdir(parents=True)
    (snapshot / "model.safetensors").resolve().rename(other / "hash")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(other / "hash")
    assert "outside of the model's folder" in refusal(snapshot)
