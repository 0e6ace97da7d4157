"""What `toolkit validate` says: the scores of the planner, of the baselines, and the rows that were left out."""

from pydantic import Field

from toolkit.specs.base import Spec


class Score(Spec):
    """Errors of predictions against measurements; shares are fractions, 0.05 is 5 %."""

    rows: int
    """Measured rows that were predicted."""
    mape: float | None = None
    """Mean of |predicted / measured - 1|; None without rows."""
    bias: float | None = None
    """Mean of predicted / measured - 1: above 0 where too much is predicted."""
    p90: float | None = None
    """Nine of ten rows have |predicted / measured - 1| below this."""
    within_10: float | None = None
    """Share of rows with |predicted / measured - 1| of at most 0.1."""


class Scores(Spec):
    """One score of all rows and the scores of their parts."""

    overall: Score
    """All rows that were scored."""
    by_framework: dict[str, Score] = Field(default_factory=dict)
    """Name of the framework profile -> score."""
    by_method: dict[str, Score] = Field(default_factory=dict)
    """full, lora or qlora -> score."""
    by_group: dict[str, Score] = Field(default_factory=dict)
    """Cell of the column `group` -> score."""
    by_source: dict[str, Score] = Field(default_factory=dict)
    """Cell of the column `source` -> score."""


class RankScore(Spec):
    """How well the planner orders the layouts of one published table by speed."""

    tables: int
    """Tables with at least three layouts of the same work on the same GPUs."""
    layouts: int = 0
    """Layouts in those tables."""
    kendall_tau: float | None = None
    """Kendall's tau-b between predicted and measured time, mean over the tables; 1 is the same order."""
    median_regret: float | None = None
    """How much slower the layout that the planner would choose is than the table's fastest, median over the tables."""
    mean_regret: float | None = None
    """The same, mean over the tables."""
    worst_regret: float | None = None
    """The same of the table where it is largest."""
    worst_table: str = ""
    """That table: model, GPUs, framework, sequence length, global batch."""


class NoisyNegatives(Spec):
    """Runs published as "crashed or out of memory", which of the two is not known."""

    rows: int = 0
    """Such runs with a usable set-up."""
    flagged: float | None = None
    """Share that is predicted not to fit."""


class Bounds(Spec):
    """Longest sequences that were published to fit."""

    rows: int = 0
    """Such statements with a usable set-up."""
    median_ratio: float | None = None
    """Longest sequence predicted to fit over the stated one, median."""


class OomScore(Spec):
    """Does it fit: predictions against runs that ran out of memory and runs that did not."""

    rows: int
    """Runs that surely ran out of memory and whose set-up is known: the clean negatives."""
    missed: float | None = None
    """Share of them that is predicted to fit."""
    ran: int = 0
    """Measured runs whose own peak is within the limit."""
    false: float | None = None
    """Share of them that is predicted not to fit."""
    false_by_framework: dict[str, float] = Field(default_factory=dict)
    """The same share by framework profile."""
    false_of_all_that_ran: float | None = None
    """Share predicted not to fit of all measured runs, those in `beyond_limit` too: they ran as well."""
    beyond_limit: int = 0
    """Measured runs whose own peak is above the limit, so that a perfect prediction would refuse them: not in `ran`."""
    noisy: NoisyNegatives = NoisyNegatives()
    """Negatives that may have failed for another reason; not in `rows`."""
    bounds: Bounds = Bounds()
    """Longest sequences."""


class BaselineScore(Spec):
    """A published estimator on the same rows."""

    source: str
    """Where its formula is published."""
    scope: str
    """The runs it is made for."""
    made_for: Score
    """Rows inside that scope."""
    planner: Score
    """This planner on the same rows."""
    overall: Score
    """All rows for which its formula gives a number."""
    by_framework: dict[str, Score] = Field(default_factory=dict)
    """The same by framework profile."""
    oom: OomScore
    """Missed and false out-of-memory predictions where its formula gives a number."""


class HalfReport(Spec):
    """Scores of one half of the layouts."""

    memory: Scores
    """Peak memory."""
    time: Scores
    """Step time."""
    ranking: RankScore
    """Order of layouts, in a half of the tables: each belongs whole to one half, whatever was fitted on its rows."""


class ValidationReport(Spec):
    """The planner scored on published runs; fractions, never per cent."""

    memory: Scores
    """Peak memory, each row against the reading that its `mem_kind` names."""
    time: Scores
    """Step time."""
    time_with_contradicted: Score
    """The same with the rows that their own table contradicts, as it has their layout several times as fast."""
    ranking: RankScore
    """Order of layouts inside one table."""
    oom: OomScore
    """Missed and false out-of-memory predictions."""
    baselines: dict[str, BaselineScore]
    """Published estimators on the same rows."""
    fitted_constants: dict[str, int]
    """Framework profile -> number of its constants that were fitted to measured runs; `total` is their sum."""
    skipped: dict[str, dict[str, int]] = Field(default_factory=dict)
    """memory, time or oom -> why rows were not scored -> how many."""
    halves: dict[str, HalfReport] | None = None
    """fit: layouts that constants were fitted on; held_out: the others. None unless asked for."""
