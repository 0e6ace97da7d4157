"""ClusterSpec: the short notation, YAML files and the catalog."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit.errors import SpecError
from toolkit.specs import catalog_lookup
from toolkit.specs.cluster import ClusterSpec
from toolkit.units import GiB

FOLDER = Path(catalog_lookup.__file__).with_name("catalog")
CATALOG = yaml.safe_load((FOLDER / "devices.yaml").read_text())["devices"]
NODES = yaml.safe_load((FOLDER / "nodes.yaml").read_text())["nodes"]


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        ClusterSpec.resolve(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- short notation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "nodes", "gpus"),
    [
        ("8xA100-80GB", "8xA100-80GB", 1, 8),
        ("2048x8xH100-80GB", "2048x8xH100-80GB", 2048, 8),
        ("1x8xH100-80GB", "8xH100-80GB", 1, 8),
        ("2xcpu", "2xcpu", 1, 2),
        ("H100-80GB", "1xH100-80GB", 1, 1),
        ("8xa100", "8xA100-80GB", 1, 8),
        ("4Xh100", "4xH100-80GB", 1, 4),
        (" 2 x 4 x H200 ", "2x4xH200-141GB", 2, 4),
        ("8xRTX 4090", "8xRTX4090-24GB", 1, 8),
        ("8x4090", "8xRTX4090-24GB", 1, 8),
        ("8xL40S", "8xL40S", 1, 8),
        ("4xNVIDIA A100-SXM4-40GB", "4xA100-40GB", 1, 4),
    ],
)
def test_short_notation(text: str, name: str, nodes: int, gpus: int) -> None:
    spec = ClusterSpec.resolve(text)
    assert (spec.name, spec.num_nodes, spec.gpus_per_node, spec.world_size) == (name, nodes, gpus, nodes * gpus)
    assert ClusterSpec.resolve(spec.name) == spec


@pytest.mark.parametrize(
    "text", ["", "8x", "x", "-1xA100", "2x2x2xA100", "8xA100;rm", "H100:8", "1.5xA100", "1234567xA100"]
)
def test_bad_syntax_shows_examples(text: str) -> None:
    text = refusal(text)
    assert "8xA100-80GB" in text
    assert "2x8xH100-80GB" in text


@pytest.mark.parametrize("text", ["0xA100", "0x8xA100", "8x0xA100", "00xcpu"])
def test_zero_counts_are_refused(text: str) -> None:
    assert "count of 0; every count is at least 1" in refusal(text)


@pytest.mark.parametrize(
    ("text", "nearest"), [("8xB100", "B200"), ("8A100", "A100-80GB"), ("L40", "L40S"), ("A10x", "A10G")]
)
def test_unknown_device_shows_the_nearest(text: str, nearest: str) -> None:
    assert nearest in refusal(text).split("nearest")[1].split(";")[0]


def test_nothing_near_shows_all() -> None:
    text = refusal("8xqqqqqq")
    assert all(entry["name"] in text for entry in (*CATALOG, *NODES))


def test_a_node_types_name_is_looked_up_too() -> None:
    assert "node types: p5.48xlarge" in refusal("4xp5.48xlarg")
    assert "dgx-h100" in refusal("dgx-h10").split("node types")[1]


# --- catalog --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", CATALOG, ids=[entry["name"] for entry in CATALOG])
def test_catalog_entries_are_plausible(entry: dict[str, Any]) -> None:
    spec = ClusterSpec.resolve(f"8x{entry['name']}")
    device = spec.device
    assert device.source
    assert entry["node"]["source"]
    assert device.name == entry["name"]
    if device.kind != "cpu":
        assert 50 < device.fp16_flops / device.memory_bandwidth < 500
        assert 14 * GiB < device.memory_bytes < 288 * GiB
    assert device.bf16_flops == (device.fp16_flops if device.supports_bf16 else device.fp32_flops)
    assert device.fp32_flops >= device.fp16_flops / 32
    assert device.intra_node_bandwidth < device.memory_bandwidth
    # DGX B300 has 2 TB for 2.3 TB of HBM, a Grace processor 480 GB for two GPUs.
    assert spec.host_memory_bytes >= spec.gpus_per_node * device.memory_bytes or device.name in ("B300", "GB300")
    # Each halving of the width at least doubles the rate, where the device has the type at all.
    rates = [rate for rate in (device.fp16_flops, device.fp8_flops, device.fp4_flops) if rate]
    assert all(narrow > 1.99 * wide for wide, narrow in itertools.pairwise(rates))
    # PCIe 5.0 x16 is the fastest slot of a device without another link.
    assert (device.intra_node_bandwidth > 63e9) == (device.link in ("nvlink", "xgmi"))


@pytest.mark.parametrize("entry", CATALOG, ids=[entry["name"] for entry in CATALOG])
def test_memory_is_just_below_the_size_in_the_name(entry: dict[str, Any]) -> None:
    sizes = [name for name in (entry["name"], *entry["aliases"]) if name.endswith("GB")]
    # The driver's name of a GH200 counts the CPU's memory, the MI250X's name both dies'.
    others = ("GH200-480GB", "MI250X-128GB")
    nominal = {int(name.rpartition("-")[2].removesuffix("GB")) for name in sizes if name not in others}
    assert all(
        0.9 * size * GiB < ClusterSpec.resolve(entry["name"]).device.memory_bytes < size * GiB for size in nominal
    )


def test_names_and_aliases_are_unique() -> None:
    names = [catalog_lookup._plain(name) for entry in (*CATALOG, *NODES) for name in (entry["name"], *entry["aliases"])]
    assert len(names) == len(set(names))


def test_peak_flops_by_precision() -> None:
    device = ClusterSpec.resolve("A100-80GB").device
    assert (device.peak_flops("bf16"), device.peak_flops("fp16"), device.peak_flops("fp32")) == (
        312e12,
        312e12,
        19.5e12,
    )
    assert ClusterSpec.resolve("V100").device.peak_flops("bf16") == 15.7e12
    blackwell = ClusterSpec.resolve("B200").device
    assert (blackwell.peak_flops("fp8"), blackwell.peak_flops("fp4")) == (4500e12, 9000e12)


@pytest.mark.parametrize(("name", "precision"), [("A100-80GB", "fp8"), ("H100", "fp4"), ("MI250X", "fp8")])
def test_a_type_that_the_device_has_not_is_refused(name: str, precision: Any) -> None:
    device = ClusterSpec.resolve(name).device
    with pytest.raises(SpecError, match=f"^{device.name} has no {precision} matrix products; use one of fp32, bf16"):
        device.peak_flops(precision)


def test_a_node_has_its_devices_shares() -> None:
    one, eight = ClusterSpec.resolve("1xA100"), ClusterSpec.resolve("8xA100")
    assert eight.host_memory_bytes == 8 * one.host_memory_bytes == 2048 * GiB
    assert eight.inter_node_bandwidth == 8 * one.inter_node_bandwidth == 200e9


# --- YAML files -----------------------------------------------------------------------------------------------------


def written(folder: Path, content: Any) -> Path:
    path = folder / "lab.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def test_file_with_a_catalog_device(tmp_path: Path) -> None:
    path = written(tmp_path, "device: h100\ngpus_per_node: 4\nnum_nodes: 3\nhost_memory_bytes: 1 TiB\n")
    spec = ClusterSpec.resolve(str(path))
    assert spec == ClusterSpec.resolve("3x4xH100").model_copy(update={"name": "lab", "host_memory_bytes": 1024 * GiB})


def test_file_with_a_device_of_its_own(tmp_path: Path) -> None:
    device = {
        "name": "MyGPU",
        "kind": "cuda",
        "memory_bytes": "60 GiB",
        "bf16_flops": 1e14,
        "fp16_flops": 1e14,
        "fp32_flops": 1e13,
        "supports_bf16": True,
        "memory_bandwidth": 1e12,
        "intra_node_bandwidth": 1e11,
        "source": "measured",
    }
    given = {"gpus_per_node": 2, "device": device, "host_memory_bytes": "256 GiB", "inter_node_bandwidth": "1e10"}
    spec = ClusterSpec.from_file(written(tmp_path, given))
    assert (spec.name, spec.num_nodes, spec.inter_node_bandwidth) == ("lab", 1, 1e10)
    assert spec.device.memory_bytes == 60 * GiB
    assert spec.device.host_bandwidth == 31.5e9


def test_plan_files_keep_a_spec() -> None:
    spec = ClusterSpec.resolve("2x8xB200")
    assert ClusterSpec.parse(yaml.safe_load(spec.model_dump_json()), source="plan.json") == spec


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "device: h100\ngpus_per_nod: 4\n",
            ["unknown key `gpus_per_nod`; did you mean `gpus_per_node`?", "is missing"],
        ),
        ("device: h100\ngpus_per_node: 0\n", ["`gpus_per_node` is 0"]),
        ("device: h100\ngpus_per_node: lots\n", ["`gpus_per_node` is 'lots'"]),
        ("device: b100\ngpus_per_node: 8\n", ["no device 'b100'", "B200"]),
        ("device: h100\ngpus_per_node: 8\nhost_memory_bytes: much\n", ["host_memory_bytes", "'much' is not a size"]),
        (
            "device: {nam: x}\ngpus_per_node: 8\n",
            ["`device.nam`; did you mean `name`?", "`device.memory_bytes` is missing"],
        ),
        ("gpus_per_node: 8\n", ["`device` is missing", "`host_memory_bytes` is missing"]),
        ("device: 7\ngpus_per_node: 8\n", ["`device` is 7"]),
    ],
)
def test_file_faults(tmp_path: Path, content: str, words: list[str]) -> None:
    path = written(tmp_path, content)
    with pytest.raises(SpecError) as caught:
        ClusterSpec.resolve(str(path))
    for word in words:
        assert word in str(caught.value)
    assert all(line.startswith(str(path)) for line in str(caught.value).splitlines())


def test_missing_file() -> None:
    assert "missing.yaml: cannot be read" in refusal("missing.yaml")
    assert "cannot be read" in refusal("./clusters/lab")
