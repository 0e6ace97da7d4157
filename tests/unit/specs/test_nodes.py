"""Node types and what a cluster has beside its devices: NVLink domain, latencies, disks, price."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit.errors import SpecError
from toolkit.specs import catalog_lookup
from toolkit.specs.base import read_catalog, read_mapping
from toolkit.specs.cluster import ClusterSpec
from toolkit.units import GiB

CATALOG = yaml.safe_load(Path(catalog_lookup.__file__).with_name("catalog").joinpath("nodes.yaml").read_text())
NODES = CATALOG["nodes"]
LATENCIES = CATALOG["latencies"]


@pytest.mark.parametrize(
    ("text", "name", "nodes", "gpus", "device"),
    [
        ("dgx-h100", "dgx-h100", 1, 8, "H100-80GB"),
        ("1xdgx-h100", "dgx-h100", 1, 8, "H100-80GB"),
        ("16xDGX H100", "16xdgx-h100", 16, 8, "H100-80GB"),
        (" 4 x p4d.24xlarge", "4xp4d.24xlarge", 4, 8, "A100-40GB"),
        ("Standard_ND96isr_H100_v5", "ND96isr_H100_v5", 1, 8, "H100-80GB"),
        ("2xg6e.12xlarge", "2xg6e.12xlarge", 2, 4, "L40S"),
        ("18xgb200-nvl72", "18xgb200-nvl72", 18, 4, "GB200"),
    ],
)
def test_node_notation(text: str, name: str, nodes: int, gpus: int, device: str) -> None:
    spec = ClusterSpec.resolve(text)
    assert (spec.name, spec.num_nodes, spec.gpus_per_node, spec.device.name) == (name, nodes, gpus, device)
    assert ClusterSpec.resolve(spec.name) == spec


def test_a_node_type_takes_no_number_of_devices() -> None:
    with pytest.raises(SpecError, match=r"a node type has its own number of devices; write 2xdgx-h100$"):
        ClusterSpec.resolve("2x8xdgx-h100")
    with pytest.raises(SpecError, match="count of 0"):
        ClusterSpec.resolve("0xdgx-h100")


@pytest.mark.parametrize("entry", NODES, ids=[entry["name"] for entry in NODES])
def test_nodes_are_plausible(entry: dict[str, Any]) -> None:
    spec = ClusterSpec.resolve(entry["name"])
    assert (spec.name, spec.gpus_per_node) == (entry["name"], entry["gpus_per_node"])
    assert entry["source"]
    assert spec.device.name == entry["device"]
    assert 150 * GiB < spec.host_memory_bytes < 4000 * GiB
    assert 25e9 / 8 <= spec.inter_node_bandwidth <= 800e9
    assert spec.inter_node_latency == LATENCIES[entry["network"]]["seconds"]
    assert spec.fast_domain == (72 if "nvl72" in spec.name else spec.gpus_per_node)
    if "nvme" in entry:
        assert entry["nvme"]["source"]
        assert spec.nvme_bytes
        assert spec.nvme_read_bandwidth
        assert spec.nvme_write_bandwidth
        assert 0.5e12 < spec.nvme_bytes < 50e12
        assert 0.4e9 < spec.nvme_write_bandwidth < spec.nvme_read_bandwidth < 60e9
    else:
        assert (spec.nvme_bytes, spec.nvme_read_bandwidth, spec.nvme_write_bandwidth) == (None, None, None)


@pytest.mark.parametrize("name", ["devices.yaml", "nodes.yaml"])
def test_the_fast_reader_reads_the_same(name: str) -> None:
    path = Path(catalog_lookup.__file__).with_name("catalog") / name
    assert read_catalog(path) == read_mapping(path)


def test_the_fast_reader_refuses_a_key_given_twice(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"lab\.yaml:2: not valid YAML \(key `a` is given twice\)"):
        read_catalog(written(tmp_path, "a: 1\na: 2\n"))


def test_latencies_grow_with_distance() -> None:
    assert all(1e-6 < entry["seconds"] < 1e-4 and entry["source"] for entry in LATENCIES.values())
    seconds = [LATENCIES[kind]["seconds"] for kind in ("nvlink", "pcie", "infiniband", "efa", "tcp")]
    assert seconds == sorted(seconds)


def test_a_racks_nvlink_joins_its_machines() -> None:
    assert ClusterSpec.resolve("8xA100").fast_domain == 8
    assert ClusterSpec.resolve("2x4xGB200").fast_domain == 72
    # 72 is no multiple of 5: only whole machines count.
    assert ClusterSpec.resolve("3x5xGB300").fast_domain == 70


def test_latency_follows_the_link() -> None:
    nvlink, pcie, cpu = (ClusterSpec.resolve(text) for text in ("8xH100", "8x4090", "2xcpu"))
    assert nvlink.intra_node_latency == LATENCIES["nvlink"]["seconds"]
    assert pcie.intra_node_latency == LATENCIES["pcie"]["seconds"]
    assert cpu.intra_node_latency == LATENCIES["memory"]["seconds"]
    assert pcie.inter_node_latency == LATENCIES["tcp"]["seconds"]


def written(folder: Path, text: str) -> Path:
    path = folder / "lab.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_changes_a_node_type(tmp_path: Path) -> None:
    text = "node: dgx-h100\nnum_nodes: 4\nprice_per_gpu_hour: 2.5\nnvme_bytes: 2 TiB\n"
    spec = ClusterSpec.from_file(written(tmp_path, text))
    known = ClusterSpec.resolve("4xdgx-h100")
    changes = {"name": "lab", "price_per_gpu_hour": 2.5, "nvme_bytes": 2048 * GiB}
    assert spec == known.model_copy(update=changes)
    assert known.price_per_gpu_hour is None


def test_a_file_uses_a_part_of_a_node(tmp_path: Path) -> None:
    spec = ClusterSpec.from_file(written(tmp_path, "node: gb200-nvl72\ngpus_per_node: 3\n"))
    assert (spec.world_size, spec.fast_domain) == (3, 3)
    assert spec.host_memory_bytes == ClusterSpec.resolve("gb200-nvl72").host_memory_bytes


def test_a_file_keeps_measurements(tmp_path: Path) -> None:
    text = "device: cpu\ngpus_per_node: 2\nmeasured: {made_with: test, disk_read: 1e+9}\n"
    spec = ClusterSpec.from_file(written(tmp_path, text))
    assert spec.measured is not None
    assert spec.measured.disk_read == 1e9
    assert ClusterSpec.parse(yaml.safe_load(spec.model_dump_json()), source="plan.json") == spec


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("inter_node_bandwidth: 0", "`inter_node_bandwidth` is 0: input should be greater than 0"),
        ("inter_node_bandwidth: -1.0", "`inter_node_bandwidth` is -1.0"),
        ("price_per_gpu_hour: 0", "`price_per_gpu_hour` is 0: input should be greater than 0"),
        ("price_per_gpu_hour: -2", "`price_per_gpu_hour` is -2"),
        ("intra_node_latency: 0", "`intra_node_latency` is 0"),
        ("nvme_read_bandwidth: 0", "`nvme_read_bandwidth` is 0"),
        ("nvme_bytes: 1 TiB", "nvme_read_bandwidth and nvme_write_bandwidth missing; a local disk needs"),
        ("fast_domain: 12", "fast_domain is 12, needs a multiple of gpus_per_node (8)"),
        ("fast_domain: 2", "fast_domain is 2, needs a multiple of gpus_per_node (8)"),
        ("measured: {disk_read: 0, made_with: me}", "`measured.disk_read` is 0"),
    ],
)
def test_faults_are_one_clear_line(tmp_path: Path, line: str, words: str) -> None:
    path = written(tmp_path, f"device: A100-80GB\ngpus_per_node: 8\n{line}\n")
    with pytest.raises(SpecError) as caught:
        ClusterSpec.from_file(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_node_type_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"lab\.yaml: node: no node type 'dgx-h10' in the catalog, .*dgx-h100"):
        ClusterSpec.from_file(written(tmp_path, "node: dgx-h10\n"))
