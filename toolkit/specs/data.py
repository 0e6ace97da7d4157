"""Where the samples come from and how they become tokens, as the recipe has it."""

from typing import Literal

from pydantic import Field, field_validator

from toolkit.specs.base import Spec

DataFormat = Literal["alpaca", "prompt_completion", "messages", "sharegpt", "text"]
TemplateName = Literal["alpaca", "chatml", "llama2", "llama3", "plain"]


def refuse_url(value: str | None) -> str | None:
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

    _no_url = field_validator("train", "held_out")(refuse_url)
