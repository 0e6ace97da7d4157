"""What is measured on samples that training never sees, how often, and what follows from it, as the recipe has it."""

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from toolkit.specs.base import Spec
from toolkit.specs.data import refuse_url


class EvaluationConfig(Spec):
    """What is measured on held-out samples and prompts: before and after training, and every so many steps."""

    every_steps: int | None = Field(default=None, gt=0)
    """Optimizer steps between two evaluations, and one after the last step; without it before and after only."""
    exact_match_samples: int = Field(default=0, ge=0)
    """Held-out samples to answer greedily; 0 measures no exact match."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Longest generated answer in tokens."""
    loss_samples: int = Field(default=256, ge=0)
    """Held-out samples whose loss is measured, evenly spaced among all of them; 0 measures none."""
    generate_samples: int = Field(default=0, ge=0)
    """Held-out samples whose greedy answers each evaluation prints, and adds to answers.jsonl."""
    prompts: str | None = None
    """Further prompts, all to be answered greedily and compared with their answers: a source as `data.train`, of any
    format, which is recognised by itself."""
    patience: int | None = Field(default=None, gt=0)
    """Evaluations in a row without a better held-out loss after which the run ends; without it, it goes on."""
    min_improvement: float = Field(default=0.0, ge=0)
    """Nats per token by which a loss must be lower than the last better one to count as better, for `patience`."""
    export_best: bool = False
    """Export the weights with the lowest held-out loss instead of the last; a better evaluation saves a checkpoint."""

    _no_url = field_validator("prompts")(refuse_url)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults = [
            f"{name} looks at the held-out loss during training; set every_steps, and loss_samples above 0"
            for name, wanted in (("patience", self.patience is not None), ("export_best", self.export_best))
            if wanted and not self.measures_loss_during_training
        ]
        if self.generate_samples and self.every_steps is None:
            faults.append("generate_samples is of evaluations during training; set every_steps, or leave it out")
        if self.min_improvement and self.patience is None:
            faults.append("min_improvement is of patience; set patience, or leave it out")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def measures_loss_during_training(self) -> bool:
        """Whether there are held-out losses that something can be decided by."""
        return self.every_steps is not None and self.loss_samples > 0
