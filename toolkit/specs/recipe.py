"""The Recipe: what to train on and how, in one YAML file beside the plan."""

import math
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from toolkit.errors import SpecError
from toolkit.specs.base import Spec
from toolkit.specs.optimizer import OptimizerConfig
from toolkit.specs.schedule import ScheduleConfig
from toolkit.specs.workload import Workload

_NO_DATA = "# data:  # samples; needed before the run starts\n#   train: FILE\n"

DataFormat = Literal["alpaca", "prompt_completion", "messages", "sharegpt", "text"]
TemplateName = Literal["alpaca", "chatml", "llama2", "llama3", "plain"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]


def _refuse_url(value: str | None) -> str | None:
    """Nothing here is read from a URL, and its login would be kept with the run; so the message leaves it out, too."""
    if value is not None and "://" in value:
        raise ValueError("is a URL; download what it names and give the file or folder, or give a hub id")
    return value


class DataConfig(Spec):
    """Where the samples come from and how they become tokens."""

    train: str
    """A file (.json, .jsonl, .jsonl.gz, .parquet), a folder of such files, or a Hugging Face hub id."""
    held_out: str | None = None
    """A second source for evaluation; without it `held_out_fraction` is taken from `train`."""
    held_out_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Part of `train` kept out of training for evaluation, chosen by `seed`."""
    hub_split: str = "train"
    """Split to read when a source is a hub id."""
    format: DataFormat | None = None
    """Shape of a row; without it recognised from the columns."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Renames: toolkit's column name -> the file's, as in `{prompt: question, completion: answer}`."""
    template: TemplateName | None = None
    """Built-in chat template; without it the tokenizer's own, or `alpaca` where the tokenizer has none."""

    group_by_length: bool = False
    """Put rows of about one length into a batch: less padding, and equal work where a rank has few rows of it."""
    packing: bool = False
    """Put several short samples into each training row of seq_len tokens, where none sees another; a batch counts rows.
    """

    _no_url = field_validator("train", "held_out")(_refuse_url)


class LoraConfig(Spec):
    """Adapters of `workload.method: lora`; the rank is part of the workload."""

    alpha: float = Field(default=32.0, gt=0)
    """Scale: an adapter's output is multiplied by alpha / rank."""
    rslora: bool = False
    """Multiply it by alpha / sqrt(rank) instead, so that a high rank learns as fast as a low one (2312.03732)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapters."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers that get an adapter."""

    def scale(self, rank: int) -> float:
        """What an adapter's output is multiplied by."""
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)


class EvaluationConfig(Spec):
    """What is measured on the held-out samples before and after training."""

    exact_match_samples: int = Field(default=0, ge=0)
    """Held-out samples to answer greedily; 0 measures no exact match."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Longest generated answer in tokens."""
    loss_samples: int = Field(default=256, ge=0)
    """Held-out samples whose loss is measured; 0 measures none."""


class CheckpointConfig(Spec):
    """When a run saves what it needs to go on, and how much of it stays: 12 bytes per trained parameter each."""

    every_steps: int | None = Field(default=None, gt=0)
    """Optimizer steps between two checkpoints."""
    every_minutes: float | None = Field(default=30.0, gt=0)
    """Minutes between two checkpoints; given with `every_steps`, whichever comes first."""
    at_end: bool = True
    """Save after the last step too: a longer run can go on from there."""
    keep_last: int = Field(default=2, ge=2)
    """Newest checkpoints to keep; two, as the newest may turn out to be damaged."""
    keep_every: int | None = Field(default=None, gt=0)
    """Checkpoints whose step is a multiple of this are kept for good."""
    keep_best: bool = False
    """Measure the held-out loss at every checkpoint, and keep the best one too."""
    asynchronous: bool = True
    """Train on while the files are written; it needs as much host memory as a rank's part of the states."""
    on_failure: Literal["warn", "stop"] = "warn"
    """After a checkpoint that could not be written: train on and try again, or end with exit code 75."""


class FaultConfig(Spec):
    """What a run does when its numbers go wrong, or when it stands still."""

    on_bad_step: Literal["skip", "rollback", "stop"] = "skip"
    """After a step whose loss or gradients are not finite (its update is never applied): train on; go back to the last
    checkpoint and leave the batch out; or end with exit code 76."""
    max_bad_steps: int = Field(default=3, gt=0)
    """Bad steps in a row, or batches left out by going back, after which the run ends."""
    spike_zscore: float | None = Field(default=None, gt=0)
    """A loss this many standard deviations above the mean of the last `spike_window` steps is a bad step too."""
    spike_window: int = Field(default=50, ge=10)
    """Steps that a loss is compared with."""
    hang_minutes: float = Field(default=5.0, gt=0)
    """Minutes without a step after which every rank writes its stacks into `faults` and ends."""
    min_ranks: int | None = Field(default=None, gt=0)
    """Fewest ranks to go on with where starting all of them again does not help; without it the run ends then."""
    halve_micro_batch: bool = False
    """Where a rank runs out of memory: go on with half the micro-batch and the same global batch; without it, or at a
    micro-batch of 1, the run ends with exit code 77."""
    compare_every: int | None = Field(default=None, gt=0)
    """Optimizer steps between two comparisons of the replicas' weights, which must be the same bit for bit."""


class Recipe(Spec):
    """One fine-tuning run: model, workload, data, optimizer, schedule, evaluation."""

    model: str
    """Folder, hub id or catalog name of the model; must hold weights when the run starts."""
    workload: Workload
    """Must equal the plan's workload."""
    data: DataConfig | None = None
    """Samples; a plan needs none, a run does."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training samples; 1 where neither this nor `max_steps` is given."""
    max_steps: int | None = Field(default=None, gt=0)
    """Optimizer steps; give this or `epochs`."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW's numbers, and which tensors have others."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rate over steps."""
    lora: LoraConfig = LoraConfig()
    """Used with `workload.method: lora` only."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out measurements."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the run saves what it needs to go on."""
    faults: FaultConfig = FaultConfig()
    """What the run does when its numbers go wrong, or when it stands still."""
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where curves go besides telemetry.jsonl."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Order of the samples, held-out choice, dropout and adapter initialisation."""

    _no_url = field_validator("model")(_refuse_url)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("epochs and max_steps are both given; keep one of them")
        return self

    def save(self, path: Path) -> None:
        """Write recipe.yaml with every value resolved and its meaning beside it."""
        path.write_text(self.to_yaml(), encoding="utf-8")

    def to_yaml(self) -> str:
        """The text of recipe.yaml."""
        return _commented_yaml(self) + ("" if self.data else _NO_DATA)

    def require_data(self) -> DataConfig:
        """The samples of a run that is to train.

        Raises:
            SpecError: the recipe names none.
        """
        if self.data is None:
            raise SpecError("recipe.yaml names no samples; add `data: {train: FILE}`, or plan again with --data FILE")
        return self.data


def _commented_yaml(spec: Spec, indent: str = "") -> str:
    """YAML in field order, each line followed by the field's own documentation."""
    lines = []
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if value is None:
            continue
        comment = (field.description or "").splitlines()[0]
        if isinstance(value, Spec):
            lines.append(f"{indent}{name}:  # {comment}\n{_commented_yaml(value, indent + '  ')}")
            continue
        plain = spec.model_dump(mode="json")[name]
        # Odd blanks and line ends (U+0085, U+00A0) do not survive unless they are escaped.
        readable = "\\" not in repr(plain)
        text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=readable)
        text = text.removesuffix("...\n").strip(" \n")
        lines.append(f"{indent}{name}: {text}  # {comment}\n")
    return "".join(lines)
