"""The table of releases against the files that say the same, and the verdicts that follow from it."""

import re
from pathlib import Path

import pytest

from toolkit.check.known_bad import FAULTS
from toolkit.check.releases import TESTED_DEEPSPEED, Release
from toolkit.doctor.releases import OPTIONAL, in_range, judge, missing_extras, read_table, state_of
from toolkit.versions import EXTRAS, PACKAGES

ROOT = Path(__file__).parents[3]
TABLE = read_table()
TESTED: dict[str, str | None] = {name: library.tested for name, library in TABLE.items()}


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


def test_the_table_says_what_pyproject_and_the_constraints_say() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        plain(re.split(r"[\[<>=]", line)[0]): (
            extra,
            re.sub(r"^[\w-]+(?:\[\w+\])?", "", line.partition(";")[0]).strip(),
        )
        for extra in ("train", *OPTIONAL)
        for line in project["optional-dependencies"][extra]
    }
    told = {plain(name): (one.extra, one.works) for name, one in TABLE.items() if one.extra}
    assert told == wanted
    assert TABLE["python"].works == project["requires-python"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {plain(line.split("==")[0]): line.split("==")[1].split()[0] for line in lines if re.match(r"[\w-]+==", line)}
    assert {plain(name): one.tested for name, one in TABLE.items() if one.extra} == {
        name: pins[name] for name in wanted
    }
    assert TABLE["deepspeed"].tested == TESTED_DEEPSPEED
    assert {*PACKAGES, *EXTRAS} <= TABLE.keys()


@pytest.mark.parametrize(
    ("release", "wanted", "inside"),
    [
        ("0.16.1", ">=0.16.1,<0.17", True),
        ("0.17.0", ">=0.16.1,<0.17", False),
        ("0.16.0", ">=0.16.1,<0.17", False),
        ("26.0", ">=18", True),
        ("2.13.0+cpu", ">=2.7", True),
    ],
)
def test_ranges(release: str, wanted: str, inside: bool) -> None:
    assert in_range(Release.parse(release), wanted) == inside


@pytest.mark.parametrize(
    ("name", "installed", "state"),
    [
        ("torch", "2.13.0+cu130", "tested"),
        ("torch", "2.12.1", "untested"),
        ("torch", "2.14.0a0+git12", "untested"),
        ("torch", "2.6.0", "too old"),
        ("torch", "", "broken"),
        ("torch", None, "missing"),
        ("torch", "main", "untested"),
        ("megatron-core", "0.18.0", "too new"),
        ("python", "3.11.2", "tested"),
        ("python", "3.14.0", "untested"),
        ("python", "3.9.18", "too old"),
    ],
)
def test_one_word_for_a_release(name: str, installed: str | None, state: str) -> None:
    assert state_of(installed, TABLE[name]) == state


def found(**installed: str | None) -> list[tuple[str, str]]:
    given = TESTED | {name.replace("_", "-"): release for name, release in installed.items()}
    return [(one.severity, one.rule) for one in judge(given, TABLE)]


def test_the_tested_releases_have_no_findings() -> None:
    assert found() == []


def test_releases_out_of_range_and_untested_ones() -> None:
    assert found(transformers="4.57.0") == [("error", "release-out-of-range")]
    assert found(python="3.9.2") == [("error", "release-out-of-range")]
    assert found(megatron_core="0.18.0") == [("warning", "release-out-of-range")]
    assert found(torch="2.12.0", peft="0.20.0") == [("note", "untested-releases")]
    assert found(torch="2.9.1") == [("note", "known-bad-release"), ("note", "untested-releases")]
    assert found(accelerate="") == [("error", "broken-install")]
    assert found(torch=None) == []  # told as missing


def test_what_a_deepspeed_computes_wrong_comes_from_the_linter_s_table() -> None:
    (first, second) = judge(TESTED | {"deepspeed": "0.18.1"}, TABLE)
    assert (first.rule, second.rule) == ("release-out-of-range", "known-bad-release")
    release = Release.parse("0.18.1")
    for fault in FAULTS:
        concerned = Release.parse(fault.first) <= release < Release.parse(fault.fixed)
        assert (fault.issue in second.message) == concerned
    assert "deepspeed==0.19.8" in second.command


def missing(system: str = "linux", python: tuple[int, int] = (3, 11), **installed: None) -> list[tuple[str, str]]:
    given = TESTED | {name.replace("megatron_", "megatron-"): release for name, release in installed.items()}
    return [(one.severity, one.rule) for one in missing_extras(given, TABLE, system=system, python=python)]


def test_extras_that_are_missing_are_named_where_they_are_of_use() -> None:
    assert missing() == []
    assert missing(peft=None) == [("error", "train-extra")]
    assert missing(megatron_core=None) == [("note", "megatron-extra")]
    assert missing(system="darwin", megatron_core=None) == []
    assert missing(python=(3, 14), megatron_core=None) == []
    assert missing(bitsandbytes=None, pytorch_optimizer=None) == [("note", "optimizers-extra"), ("note", "quant-extra")]
    nothing = dict.fromkeys(TESTED)
    (only,) = missing_extras(nothing, TABLE, system="linux", python=(3, 11))
    assert only.message == "the training half: not installed"
    assert "'.[train]'" in only.command
