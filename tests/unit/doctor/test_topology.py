"""The matrices of nvidia-smi topo, in words and findings."""

import pytest

from toolkit.doctor.topology import judge_topology, parse_peers, parse_topology, topology_words
from unit.doctor import smi_texts

H100, A100_PCIE, RTX = "NVIDIA H100 80GB HBM3", "NVIDIA A100 80GB PCIe", "NVIDIA GeForce RTX 4090"


def rules(text: str, name: str, num_gpus: int, *, peers: str = "") -> list[str]:
    found = parse_topology(text)
    assert found is not None
    return [one.rule for one in judge_topology(found, [name] * num_gpus, peers=parse_peers(peers))]


def test_eight_gpus_behind_nvswitch() -> None:
    found = parse_topology(smi_texts.nvswitch_matrix())
    assert found is not None
    assert len(found.links) == 28
    assert set(found.links.values()) == {"NV18"}
    assert found.numa == {gpu: "0" if gpu < 4 else "1" for gpu in range(8)}
    assert found.adapters == {"NIC0": "PXB", "NIC1": "PXB"}
    assert topology_words(found, 8) == [
        "every pair of the 8 GPUs: 18 NVLinks",
        "NUMA: node 0 has GPUs 0, 1, 2, 3; node 1 has GPUs 4, 5, 6, 7",
        "2 network adapters, 2 of them next to a GPU",
    ]
    assert rules(smi_texts.nvswitch_matrix(), H100, 8, peers=smi_texts.PEERS) == []


def test_bridges_join_pairs_and_the_rest_is_slow() -> None:
    found = parse_topology(smi_texts.BRIDGED_MATRIX)
    assert found is not None
    assert found.num_nvlinked == 2
    words = topology_words(found, 4)
    assert words[:2] == [
        "GPUs 0-1, 2-3: 12 NVLinks",
        "GPUs 0-2, 0-3, 1-2, 1-3: PCIe and the link between processors (SYS)",
    ]
    assert rules(smi_texts.BRIDGED_MATRIX, A100_PCIE, 4) == ["slow-links"]


def test_cards_without_nvlink() -> None:
    found = parse_topology(smi_texts.GEFORCE_MATRIX)
    assert found is not None
    assert topology_words(found, 4) == ["every pair of the 4 GPUs: PCIe and the link between processors (SYS)"]
    assert rules(smi_texts.GEFORCE_MATRIX, RTX, 4, peers=smi_texts.NO_PEERS) == ["slow-links", "no-p2p"]


def test_columns_between_spaces_and_no_numa_column() -> None:
    found = parse_topology(smi_texts.OLD_MATRIX)
    assert found is not None
    assert (found.links, found.numa, found.adapters) == ({(0, 1): "NV6"}, {}, {"mlx5_0": "PIX"})
    assert topology_words(found, 2) == ["GPUs 0-1: 6 NVLinks", "1 network adapter, 1 of them next to a GPU"]


def test_boards_with_nvlinks_on_which_they_are_missing_or_fewer() -> None:
    missing = smi_texts.BRIDGED_MATRIX.replace("NV12", "SYS")
    assert rules(missing, H100, 4) == ["nvlink-missing"]
    weak = smi_texts.nvswitch_matrix().replace("NV18\tNV18\tNV18\tNV18\tPXB", "NV16\tNV18\tNV18\tNV18\tPXB", 1)
    assert rules(weak, H100, 8) == ["nvlink-uneven"]
    # Eight V100 are a mesh: some pairs have one link, some two, some none.
    mesh = smi_texts.BRIDGED_MATRIX.replace("NV12", "NV2")
    assert rules(mesh, "Tesla V100-SXM2-32GB", 4) == ["slow-links"]


def test_one_gpu_has_no_links() -> None:
    found = parse_topology(smi_texts.ONE_GPU_MATRIX)
    assert found is not None
    assert topology_words(found, 1) == []
    assert rules(smi_texts.ONE_GPU_MATRIX, H100, 1) == []


@pytest.mark.parametrize("text", ["", "Topology is not supported on this system", "GPU\n0"])
def test_no_matrix(text: str) -> None:
    assert parse_topology(text) is None
    assert parse_peers(text) == {}


def test_a_matrix_that_was_cut_short_is_read_as_far_as_it_goes() -> None:
    found = parse_topology(smi_texts.BRIDGED_MATRIX[:120])
    assert found is not None
    assert found.links[0, 1] == "NV12"
