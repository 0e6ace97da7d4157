"""`--fix` changes what it can change safely, in the text as it was written, and nothing else."""

import json
from pathlib import Path

import pytest

from toolkit.check.api import Question, check_document
from toolkit.check.document import Document, json_document, yaml_document
from toolkit.check.fix import difference, fixed, fixed_name
from toolkit.check.releases import Release
from unit.check.ds_cases import BROKEN, Broken, complete

QUESTION = Question(Release.parse("0.19.8"))
FIXABLE = {"unknown-key", "removed-key", "deprecated-key", "batch-under-tp", "auto", "optimizer"}


def mended(document: Document, question: Question = QUESTION) -> str:
    return fixed(document, [one.finding for one in check_document(document, question)])


def of_json(text: str) -> str:
    return mended(json_document(Path("ds_config.json"), text))


def test_names_are_set_right_and_the_rest_stays_as_it_was_written() -> None:
    text = '{\n  "train_micro_batch_size_per_gpu" : 1,\n\n\t"gradient_cliping":1.0, "bf16": {"enabeld": true}\n}\n'
    assert of_json(text) == text.replace("cliping", "clipping").replace("enabeld", "enabled")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"amp": {"a": 1}, "x_": 1}', '{"x_": 1}'),
        ('{"x_": 1, "amp": {"a": 1}}', '{"x_": 1}'),
        ('{"x_": 1, "amp": {}, "nebula": {}, "y_": 2}', '{"x_": 1, "y_": 2}'),
        ('{"amp": {}, "x_": 1, "nebula": {}, "eigenvalue": {}}', '{"x_": 1}'),
        ('{"amp": {}, "nebula": {}}', "{}"),
        ('{"zero_optimization": {"stage": 3, "mics_shard_size": 8}}', '{"zero_optimization": {"stage": 3}}'),
        ('{"zero_optimization": {"cpu_offload": false, "stage": 2}}', '{"zero_optimization": {"stage": 2}}'),
        (
            '{"zero_optimization": {"stage": 2, "cpu_offload": true}}',
            '{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}',
        ),
        ('{"gradient_clipping": "1.0"}', '{"gradient_clipping": 1.0}'),
        ('{"wall_clock_breakdown": "False"}', '{"wall_clock_breakdown": false}'),
        ('{"optimizer": {"type": "AdmW"}}', '{"optimizer": {"type": "AdamW"}}'),
        ('{"compile": {"backend": "inductor", "deepcompile": false}}', '{"compile": {"deepcompile": false}}'),
    ],
)
def test_each_edit(before: str, after: str) -> None:
    assert of_json(before) == after


@pytest.mark.parametrize(
    "text",
    [
        # Only its author knows which of the two counts.
        '{"gradient_cliping": 0.5, "gradient_clipping": 1.0}',
        '{"zero_optimization": {"stage": 2, "cpu_offload": true, "offload_optimizer": {"device": "nvme"}}}',
        # Nor can anybody else know these.
        '{"fp16": {"enabled": true}, "bf16": {"enabled": true}}',
        '{"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}',
        '{"train_batch_size": 7, "train_micro_batch_size_per_gpu": 2}',
        # It looks a little like Adam.
        '{"optimizer": {"type": "FusedAdam"}}',
        "{broken",
    ],
)
def test_what_only_its_author_knows_is_left_alone(text: str) -> None:
    assert of_json(text) == text


def test_two_misspelt_names_of_one_key_become_one() -> None:
    kept = json.loads(of_json('{"gradient_cliping": 0.5, "gradient_clippin": 1.0}'))
    assert sorted(kept) == ["gradient_clippin", "gradient_clipping"]


@pytest.mark.parametrize("case", [one for one in BROKEN if not one.options], ids=lambda case: case.name)
def test_no_fix_makes_a_config_worse(case: Broken) -> None:
    document = json_document(Path("ds_config.json"), complete(case.members, case.without).replace("^", ""))
    before = [one.finding.rule for one in check_document(document, QUESTION) if one.finding.severity != "note"]
    again = json_document(Path("ds_config.json"), mended(document))
    after = [one.finding.rule for one in check_document(again, QUESTION) if one.finding.severity != "note"]
    edits = [one.finding for one in check_document(document, QUESTION) if one.finding.edit is not None]
    # Each edit settles its finding; a removed batch size may leave a question that was hidden by it.
    assert len(after) == len(before) - len(edits) or document.text == mended(document)


def test_yaml_keeps_its_comments() -> None:
    text = (
        "# ours\ndistributed_type: DEEPSPEED\nmixed_precision: bf16  # gone\ndeepspeed_config:\n"
        "  zero_stage: 2 # gone\n  deepspeed_config_file: a.json # kept\n  deepspeed_hostfil: hosts\n"
    )
    document = yaml_document(Path("accelerate.yaml"), text)
    assert mended(document) == (
        "# ours\ndistributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: a.json # kept\n"
        "  deepspeed_hostfile: hosts\n"
    )


def test_a_recipe_is_set_right() -> None:
    text = "model: m  # any\nworkload:\n  seq_len: 64\n  globl_batch: 8  # a step\n  tokens: 3\n"
    document = yaml_document(Path("recipe.yaml"), text)
    assert mended(document) == text.replace("globl_batch", "global_batch")


def test_the_difference_is_shown() -> None:
    document = json_document(Path("a.json"), '{\n  "gradient_cliping": 1.0\n}\n')
    shown = difference(document, mended(document), "a.fixed.json").splitlines()
    assert shown[:2] == ["--- a.json", "+++ a.fixed.json"]
    assert '-  "gradient_cliping": 1.0' in shown
    assert '+  "gradient_clipping": 1.0' in shown
    assert fixed_name(Path("x/a.json")) == Path("x/a.fixed.json")
