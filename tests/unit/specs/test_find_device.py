"""What published tables call a device, and whether our catalog takes them at their word."""

import time

import pytest

from toolkit.specs.catalog_lookup import find_device


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A100", "A100-80GB"),
        ("A100 (DGX)", "A100-80GB"),
        ("A100-80GB-SXM", "A100-80GB"),
        ("NVIDIA A100 (SXM4, 80GB)", "A100-80GB"),
        ("A100-40GB", "A100-40GB"),
        ("A100-40GB-SXM", "A100-40GB"),
        ("A100 PCIe 40GB", "A100-40GB-PCIe"),
        ("A100-PCIE", "A100-80GB-PCIe"),
        ("A800-80GB", "A800-80GB"),
        ("H100 (DGX)", "H100-80GB"),
        ("H100_2ND (DGX)", "H100-80GB"),
        ("DGX-H100", "H100-80GB"),
        ("8x H100 SXM5 80GB", "H100-80GB"),
        ("H100-80GB-SXM (DGX)", "H100-80GB"),
        ("H100-96GB-SXM-500W(HBM2e)", "H100-96GB"),
        ("H100-95GB(implied by 30.99GiB=32.62%)", "H100-96GB"),
        ("H100 NVL", "H100-94GB-NVL"),
        ("H100 PCIe", "H100-80GB-PCIe"),
        ("H800-80GB", "H800"),
        ("H200-141GB-SXM", "H200-141GB"),
        ("B200-SXM (DGX)", "B200"),
        ("DGX-B200", "B200"),
        ("B200 192GB", "B200"),
        ("GB200 (DGX)", "GB200"),
        ("DGX-GB200", "GB200"),
        ("DGX-GB300", "GB300"),
        ("GB300 NVL72", "GB300"),
        ("p4d.24xlarge", "A100-40GB"),
        ("MI300X-192GB", "MI300X"),
        ("AMD Instinct MI300X", "MI300X"),
        ("V100-32GB-SXM2", "V100-32GB"),
        ("RTX3090-24GB(280W)", "RTX3090-24GB"),
        ("RTX4090-24GB", "RTX4090-24GB"),
        ("2x3090", "RTX3090-24GB"),
        ("RTX4070Ti-SUPER-16GB", "RTX4070TiSUPER-16GB"),
        ("RTX-A6000-48GB", "A6000-48GB"),
        ("RTX-6000Ada-48GB", "RTX6000Ada-48GB"),
        ("RTX-A5000-24GB", "RTXA5000-24GB"),
        ("L40S-48GB", "L40S"),
        ("L4 PCIe 24GB", "L4"),
        ("A10G-24GB", "A10G"),
        ("4x A10 24GB", "A10"),
        ("T4", "T4"),
    ],
)
def test_a_device_that_is_named(text: str, name: str) -> None:
    device = find_device(text)
    assert device is not None
    assert device.name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8GB GPU",
        "24GB-class GPU",
        "40GB+ GPU",
        "single GPU (not named)",
        "NVIDIA GeForce RTX 4090 D",
        "RTX 4090 Laptop GPU",
        "RTX 3090 Ti",
        "RTX A6000 Ada",
        "H200 NVL",
        "H100-64GB",
        "A100-64GB",
        "H20",
        "L40",
        "TITAN RTX",
    ],
)
def test_another_device_is_not_taken_for_a_known_one(text: str) -> None:
    assert find_device(text) is None


def test_a_corpus_is_read_at_once() -> None:
    find_device("A100")
    start = time.perf_counter()
    for number in range(100):
        find_device(f"H100-80GB-SXM (machine {number})")
    assert time.perf_counter() - start < 1.0
