"""accelerate config files: broken ones are told with path and line, good ones are left alone."""

from pathlib import Path
from typing import Any

import pytest

from toolkit.check.api import Question, check_document
from toolkit.check.document import yaml_document
from toolkit.check.finding import Placed
from toolkit.check.fix import fixed
from toolkit.check.releases import Release
from unit.check.accelerate_cases import BROKEN, GOOD, Broken, complete


def findings(text: str, folder: Path, **options: Any) -> list[Placed]:
    (folder / "ds_config.json").write_text("{}")
    question = Question(Release.parse("0.19.8"), kind="accelerate", **options)
    return list(check_document(yaml_document(folder / "accelerate.yaml", text), question))


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_broken_one_is_told_in_its_place(case: Broken, tmp_path: Path) -> None:
    whole = "distributed_typ:" in case.text or "type: NO" in case.text
    marked = case.text if whole else complete(case.text)
    line = marked[: marked.index("^")].count("\n") + 1 if "^" in marked else 1
    found = findings(marked.replace("^", ""), tmp_path)
    meant = [one for one in found if case.words in one.finding.message]
    assert len(meant) == 1, [one.finding for one in found]
    assert (meant[0].finding.path, meant[0].line, meant[0].finding.severity) == (case.path, line, case.severity)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_one_raises_no_alarm(name: str, tmp_path: Path) -> None:
    found = findings(complete(GOOD[name]), tmp_path)
    assert not [one.finding for one in found if one.finding.severity != "note"]


SAGEMAKER = (
    "compute_environment: AMAZON_SAGEMAKER\ndistributed_type: NO\nmixed_precision: fp16\nec2_instance_type: ml.p3\n"
    "iam_role_name: role\nregion: us-east-1\nnum_machines: 1\n"
)


def test_sagemakers_files_have_keys_of_their_own(tmp_path: Path) -> None:
    good = [one.finding for one in findings(SAGEMAKER, tmp_path)]
    assert {one.severity for one in good} == {"note"}
    broken = SAGEMAKER.replace("iam_role_name", "iam_role").replace("num_machines: 1", "num_processes: 8")
    found = {one.finding.path: one for one in findings(broken, tmp_path) if one.finding.severity == "error"}
    assert {path: one.line for path, one in found.items()} == {"iam_role": 5, "iam_role_name": 1, "num_processes": 7}


def test_what_is_mended_loads_in_accelerate(tmp_path: Path) -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args", reason="the training half is missing")
    text = (
        "# mine\ndistributed_type: deepspeed  # as ever\ngpu_ids: [0, 1]\nipex_config: null\nnum_procesess: 8\n"
        "mixed_precision: no\ndeepspeed_config:\n  zero_stag: 2\n"
    )
    path = tmp_path / "accelerate.yaml"
    document = yaml_document(path, text)
    mended = fixed(document, [one.finding for one in findings(text, tmp_path)])
    assert mended == (
        "# mine\ndistributed_type: DEEPSPEED  # as ever\ngpu_ids: '0,1'\nnum_processes: 8\n"
        "mixed_precision: 'no'\ndeepspeed_config:\n  zero_stage: 2\n"
    )
    path.write_text(mended)
    assert config_args.load_config_from_file(str(path)).num_processes == 8
