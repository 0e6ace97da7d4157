"""Every rule of `toolkit check` is described, and no description is of a rule that is not there."""

import ast
import functools
from pathlib import Path

from toolkit.check.rule_texts import RULE_TEXTS
from unit.check.accelerate_cases import BROKEN as ACCELERATE
from unit.check.accelerate_cases import complete as complete_accelerate
from unit.check.ds_cases import BROKEN, complete
from unit.check.test_accelerate_files import findings as accelerate_findings
from unit.check.test_ds_configs import findings

CHECK = Path(__file__).parents[3] / "toolkit" / "check"


@functools.cache
def made() -> dict[str, set[str]]:
    """Rule -> the severities that stand in the calls that make its findings."""
    found: dict[str, set[str]] = {}
    for path in CHECK.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding" and len(node.args) > 1:
                severity, rule = node.args[:2]
                if isinstance(rule, ast.Constant):
                    words = {one.value for one in ast.walk(severity) if isinstance(one, ast.Constant)}
                    found.setdefault(str(rule.value), set()).update(map(str, words))
    return found


def test_every_rule_has_its_text_and_every_text_its_rule() -> None:
    assert made().keys() == RULE_TEXTS.keys()


def test_severities_are_those_of_its_findings() -> None:
    for rule, text in RULE_TEXTS.items():
        assert made()[rule] & {"error", "warning", "note"} <= set(text.severities), rule
        assert text.says.endswith("."), rule


def test_no_finding_is_worse_than_told(tmp_path: Path) -> None:
    texts = [(complete(case.members, case.without), case.options) for case in BROKEN]
    found = [one for text, options in texts for one in findings(text.replace("^", ""), options)]
    for case in ACCELERATE:
        found += accelerate_findings(complete_accelerate(case.text).replace("^", ""), tmp_path)
    assert len(found) > 100
    for one in found:
        assert one.finding.severity in RULE_TEXTS[one.finding.rule].severities, one.finding
