"""Layouts that cannot be: `toolkit plan` and `toolkit estimate` say so in one line before any process starts."""

import subprocess
import sys

import pytest

from toolkit.__main__ import main

WORK = ["--model", "llama-3.1-8b", "--cluster", "16xA100-80GB", "--seq-len", "4096", "--global-batch", "64"]
ZERO_1_ONLY = "runs --zero 1 only; use --zero 1"

REFUSED = {
    "--tp 3": "tp=3 does not divide 32 attention heads; use 1, 2, 4 or 8",
    "--tp 16": "tp=16 does not divide 8 key/value heads; use 1, 2, 4 or 8",
    "--sp 3": "sp=3 does not divide 32 attention heads; use 1, 2, 4 or 8",
    "--sp 16": "sp=16 does not divide 8 key/value heads; use 1, 2, 4 or 8",
    "--sp 2 --seq-len 4095": "sp=2 does not divide seq_len=4095; use seq_len=4094 or 4096",
    "--tp 4 --sp 4": "tp=4 x sp=4 does not divide 8 key/value heads; use tp=1 or 2, or sp=1 or 2",
    "--tp 2 --sp 2 --zero 0": "--zero 0 with tp=2: use --zero 1, 2 or 3, or tp=1",
    "--tp 8 --sp 1 --pp 4": "tp=8 x pp=4 does not divide 16 ranks; use tp=1, 2 or 4, or pp=1 or 2",
    "--tp 2 --sp 4 --cluster 12xA100-80GB --global-batch 60": (
        "tp=2 x sp=4 does not divide 12 ranks; use tp=1, or sp=1 or 2"
    ),
    "--pp 64": "pp=64 exceeds the model's 32 layers; use 1 to 32",
    "--pp 3": "pp=3 does not divide 16 ranks; use 1, 2, 4 or 8",
    "--pp 1 --engine pipeline": "pp=1: engine pipeline needs two stages or more; use pp=2 or engine=zero",
    "--pp 2 --engine zero": "pp=2: engine zero has no pipeline parallelism; use pp=1",
    "--pp 2 --zero 0": f"--zero 0: engine pipeline {ZERO_1_ONLY}",
    "--pp 2 --zero 2": f"--zero 2: engine pipeline {ZERO_1_ONLY}",
    "--pp 2 --zero 3": f"--zero 3: engine pipeline {ZERO_1_ONLY}",
    "--pp 2 --tp 2 --zero 3": f"--zero 3: engine pipeline {ZERO_1_ONLY}",
    "--tp 2 --zero 0": "--zero 0 with tp=2: use --zero 1, 2 or 3, or tp=1",
    "--tp 2 --method lora --engine zero": (
        "tp=2: engine zero loses the adapters where it divides layers; use tp=1 with method=lora, or engine=mcore"
    ),
    "--tp 2 --pp 2 --method lora --engine pipeline": (
        "tp=2: engine pipeline divides full layers only; use tp=1 with method=lora, or engine=mcore"
    ),
    "--sp 2 --engine pipeline": "sp=2: engine pipeline has no sequence parallelism; use sp=1",
    "--sp 2 --pp 2": "no engine has all that is given; the closest: "
    "pp=2: engine zero has no pipeline parallelism; use pp=1",
    "--cp 2 --engine zero": "cp=2: engine zero has no context parallelism; use cp=1",
    "--cp 2 --engine pipeline": "cp=2: engine pipeline has no context parallelism; use cp=1",
    "--cp 3": "cp=3 needs a seq_len that 2 x cp = 6 divides, not 4096; use seq_len=4092 or 4098",
    "--stages 16,8,8 --pp 2": "stages=16,8,8 is for 3 stages, pp is 2; use 2 numbers, or pp=3",
    "--stages 16,15": "stages=16,15 adds up to 31, the model has 32 layers; use numbers that do",
    "--stages 0,32": "stages=0,32: every stage but the last needs a layer; use 1 and more, and 0 for the last only",
    "--stages 32": "stages=32: one stage divides nothing; give the layers of two or more, or none",
    "--stages 16,-16": "stages=16,-16: needs the layers of each stage with commas between, as 9,8,8,7",
    "--stages 16,16 --engine zero": (
        "stages=16,16: engine zero takes no split of the layers; use engine=pipeline or mcore, or no stages"
    ),
    "--vpp 2 --engine pipeline": ("vpp=2: engine pipeline has no interleaved pipelines; use vpp=1 or engine=mcore"),
    "--vpp 2 --engine zero": "vpp=2: engine zero has no interleaved pipelines; use vpp=1 or engine=mcore",
    "--offload all --pp 2": (
        "offload=all: engine pipeline runs offload=none or optimizer only; use offload=none or optimizer"
    ),
    "--offload optimizer --zero 0": (
        "offload=optimizer needs sharded optimizer states, not --zero 0; use --zero 1, 2 or 3"
    ),
    "--tp 16 --engine mcore": "tp=16 does not divide 8 key/value heads; use 1, 2, 4 or 8",
    "--cp 2 --tp 4 --seq-len 4084": (
        "tp=4 x cp=2 divides the tokens too, seq_len=4084 is not a multiple of 8; use seq_len=4080 or 4088, "
        "or --no-tp-sequence"
    ),
    "--tp 2 --tp-sequence --engine zero": (
        "--tp-sequence: engine zero keeps all tokens on every tensor-parallel rank; use engine=mcore, or leave it out"
    ),
    "--stages 17,15 --vpp 2 --engine mcore": (
        "stages=17,15: chunks of vpp=2 are of one size; use vpp=1, or stages=16,16"
    ),
    "--without mcore --engine mcore": "without=mcore leaves out engine=mcore; leave one of the two out",
    "--without zero,pipeline,mcore": "without=zero,pipeline,mcore leaves out every engine; leave one of the two out",
    "--tp 0": "--tp is 0: input should be greater than 0",
}
"""Options, and the one line that they end with."""


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)


def told(
    command: str, more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """What a command that is refused says; an option that is given twice counts as given last."""
    monkeypatch.setattr(sys, "argv", ["toolkit", command, *WORK, *more])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


@pytest.mark.parametrize("command", ["plan", "estimate"])
@pytest.mark.parametrize("more", REFUSED)
def test_one_fault_is_one_line(
    command: str, more: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(command, more.split(), monkeypatch, capsys) == [f"error: {REFUSED[more]}"]
