"""summary.json: the run in one object, for people and for scripts."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.training.evaluation import Evaluation
from toolkit.versions import installed_versions


def write_summary(
    folder: RunFolder,
    plan: Plan,
    records: Sequence[Mapping[str, Any]],
    *,
    before: Evaluation,
    after: Evaluation,
    facts: dict[str, Any],
) -> None:
    """Write summary.json whole or not at all; for rank 0.

    Args:
        folder: the run.
        plan: what was planned.
        records: of all steps.
        before: held-out measurements before the first step.
        after: held-out measurements after the last step.
        facts: further entries: wall_seconds, parameter counts, data statistics.
    """
    # The first steps of a run warm caches up; the median is what a user gets.
    rate = statistics.median(record["tokens_per_second"] for record in records)
    summary = {
        "loss_first": records[0]["loss"],
        "loss_last": records[-1]["loss"],
        "held_out_loss_before": before.loss,
        "held_out_loss_after": after.loss,
        "exact_match_before": before.exact_match,
        "exact_match_after": after.exact_match,
        "prompts_match_before": before.prompts_match,
        "prompts_match_after": after.prompts_match,
        "before_note": before.note,
        "example": _example(before, after),
        "tokens_per_second": rate,
        "steps": len(records),
        "skipped_steps": sum(record["skipped"] for record in records),
        "export": folder.export.relative_to(folder.path).as_posix(),
        "adapter": None if plan.workload.method == "full" else folder.adapter.relative_to(folder.path).as_posix(),
        "world_size": plan.world_size,
        **facts,
        "versions": installed_versions(),
    }
    partial = folder.summary.with_suffix(".json.partial")
    partial.unlink(missing_ok=True)  # "x" refuses a link, too, instead of writing to where it leads
    with partial.open("x", encoding="utf-8") as file:
        file.write(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    partial.replace(folder.summary)


def _example(before: Evaluation, after: Evaluation) -> dict[str, str] | None:
    if before.example is None or after.example is None:
        return None
    return {
        "prompt": after.example.prompt,
        "expected": after.example.expected,
        "before": before.example.given,
        "after": after.example.given,
    }
