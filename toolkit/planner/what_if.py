"""One question asked several times, each time with something changed: its plan, or why there is none."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from toolkit.errors import NoFeasiblePlan, SpecError
from toolkit.planner.api import plan, resolved
from toolkit.planner.layout import GivenLayout, judge_layout
from toolkit.planner.memory.room import overshoot
from toolkit.planner.plan import Plan
from toolkit.specs.workload import Workload

Question = Mapping[str, Any]
"""The arguments of `toolkit.plan` by name: model, cluster, seq_len, global_batch, method, zero_stage, ..."""


class Answer(NamedTuple):
    """What came of one question."""

    plan: Plan | None
    """Also where it does not fit, if the whole layout was given; None where there is none."""
    refusal: str = ""
    """Why there is none, as the error says it."""

    @property
    def fits(self) -> bool:
        """True where there is a plan with room for what it needs."""
        return self.plan is not None and overshoot(self.plan.memory, self.plan.cluster) <= 1


def plan_each(question: Question, changes: Mapping[str, Question]) -> dict[str, Answer]:
    """The best plan for every changed question.

    Args:
        question: what is asked.
        changes: name of an answer -> what is asked otherwise; empty for the question as it is.

    Returns:
        The answers by name; where nothing fits, the reason in the place of a plan.

    Raises:
        SpecError: something that is asked is wrong.
    """
    answers = {}
    for name, change in changes.items():
        asked = {**question, **change}
        try:
            answers[name] = Answer(plan(**asked))
        except NoFeasiblePlan as error:
            answers[name] = Answer(None, str(error))
    return answers


def estimate_each(question: Question, layouts: Mapping[str, Question]) -> dict[str, Answer]:
    """What every layout takes that is given whole, and whether it fits.

    Args:
        question: model, cluster, work, and what all layouts have in common; `toolkit.planner.api.estimate` has the
            names of a layout.
        layouts: name of an answer -> what the layout has beside that.

    Returns:
        The answers by name; where no engine can run a layout, the reason in the place of a plan.

    Raises:
        SpecError: a wrong name or value, whatever the layout.
    """
    given = dict(question)
    work = {name: given.pop(name) for name in Workload.model_fields if name in given}
    spec, machines, workload = resolved(given.pop("model"), given.pop("cluster", None), work)
    answers = {}
    for name, layout in layouts.items():
        whole = GivenLayout.parse({**given, **layout}, source=name)
        try:
            answers[name] = Answer(judge_layout(spec, machines, workload, given=whole))
        except SpecError as error:
            answers[name] = Answer(None, str(error))
    return answers
