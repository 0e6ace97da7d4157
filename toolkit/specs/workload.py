"""What one optimizer step has to do: the part of a run that a plan is made for."""

from typing import Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from toolkit.specs.base import Spec
from toolkit.specs.model import LINEAR_LAYERS
from toolkit.specs.optimizer import OptimizerName

Precision = Literal["fp32", "bf16", "fp16"]
Mixed = Literal["master", "autocast", "none"]
End = Literal["embed_tokens", "lm_head"]

FP16_NEEDS_MASTER = "whose loss scale DeepSpeed applies right only beside fp32 master weights"

PRECISION_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of one weight or activation in the forward and backward pass."""


AttentionKind = Literal["sdpa", "eager", "flash_attention_2"]
LossKind = Literal["full", "chunked"]
LOSS_BLOCK_NUMBERS, LOSS_BLOCK_COLUMNS = 2**24, 1024
"""Logits that a chunked loss computes at once, and the fewest columns of them: large enough for a matrix product to run
at full speed, small beside all that a step holds (64 MiB in fp32)."""


def loss_block(tokens: int, vocab: int) -> int:
    """Columns of logits that a chunked loss computes at once; engine and planner count with the same.

    Args:
        tokens: rows of the logits.
        vocab: columns of all logits, or of a rank's part of them.
    """
    return min(vocab, max(LOSS_BLOCK_COLUMNS, LOSS_BLOCK_NUMBERS // max(tokens, 1)))


class Workload(Spec):
    """Sequence length, global batch and method; a plan made for another workload is refused at start."""

    seq_len: int = Field(gt=0)
    """Longest sequence in tokens; longer samples are cut, longer running texts go on in the next row."""
    global_batch: int = Field(gt=0)
    """Samples per optimizer step over all ranks and accumulation steps."""
    method: Literal["full", "lora", "qlora"] = "full"
    """`full` trains every weight, `lora` low-rank adapters on frozen weights, `qlora` the same on 4-bit weights."""
    lora_rank: int = Field(default=16, gt=0)
    """Rank of the LoRA adapters; counts with `lora` and `qlora` only."""
    lora_targets: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Linear layers with adapters, as the recipe's `lora.targets` has them; all of a decoder layer if not given."""
    precision: Precision = "bf16"
    """fp32, bf16 or fp16, of matrix products and activations."""
    mixed: Mixed = "master"
    """What is fp32 beside 16 bits: `master`, the optimizer's copy of the weights and its states; `autocast`, all but
    what torch.autocast rounds (bf16); `none`, nothing: weights, gradients and optimizer states in bf16."""
    optimizer: OptimizerName = "adamw"
    """adamw, adamw_8bit, paged_adamw, paged_adamw_8bit, lion, sgd, adafactor, muon or soap; decides memory and engine.
    """
    modules_to_save: tuple[End, ...] = ()
    """Trained in full beside the adapters of `lora` and `qlora`; a tied head is the embedding under either name."""
    freeze: tuple[str, ...] = ()
    """Names of the model's tensors that `full` leaves as they are, with * ? [0-9]: `model.layers.[0-9].*`."""
    train_only: tuple[str, ...] = ()
    """Names of the only tensors that `full` trains, less those of `freeze`; all of them where it is empty."""
    new_tokens: tuple[str, ...] = ()
    """Special tokens that the tokenizer lacks, as <|im_start|>: embedding and head get a row for each."""
    vocab_multiple: int = Field(default=1, gt=0, le=65_536)
    """With `new_tokens` the rows are filled up to a multiple of it."""

    loss: LossKind = "full"
    """`full` computes all logits at once, `chunked` a block of columns at a time, twice: less memory, the same loss."""
    attention: AttentionKind = "sdpa"
    """`sdpa` is torch's own kernels, `eager` keeps all scores, `flash_attention_2` needs flash-attn and a GPU."""
    compile: bool = False
    """Let torch compile the decoder layers: minutes at the start, faster steps."""

    @field_validator("new_tokens")
    @classmethod
    def _are_tokens(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [token for token in tokens if not token or token != token.strip()]:
            raise ValueError(f"{wrong[0]!r} is empty, or has blanks around it; give the token alone")
        if twice := [token for token in tokens if tokens.count(token) > 1]:
            raise ValueError(f"{twice[0]!r} is there twice; give it once")
        return tokens

    @property
    def adapted(self) -> tuple[str, ...]:
        """Names of the linear layers with adapters, where the method has any."""
        return LINEAR_LAYERS if self.lora_targets is None else self.lora_targets

    @property
    def weights(self) -> Precision:
        """Of the weights as the model holds them."""
        return "fp32" if self.mixed == "autocast" else self.precision

    @property
    def precision_words(self) -> str:
        """As in 'bf16', 'bf16 within autocast' and 'bf16 alone'."""
        return self.precision + {"master": "", "autocast": " within autocast", "none": " alone"}[self.mixed]

    @model_validator(mode="after")
    def _mixes_with_the_precision(self) -> Self:
        if self.mixed == "none" and self.optimizer != "adamw":
            raise ValueError(
                f"mixed=none keeps adamw's states in bf16, optimizer is {self.optimizer}; use optimizer=adamw, or "
                "mixed=master"
            )
        if self.mixed != "master" and self.precision != "bf16":
            why = {"fp32": "which mixes nothing", "fp16": FP16_NEEDS_MASTER, "bf16": ""}[self.precision]
            raise ValueError(
                f"mixed={self.mixed} goes with bf16, precision is {self.precision}, {why}; use precision=bf16, or "
                "leave mixed out"
            )
        return self

    @model_validator(mode="after")
    def _belongs_to_the_method(self) -> Self:
        full = self.method == "full"
        if full and self.lora_targets is not None:
            raise ValueError("lora_targets goes with adapters, method is full; use method=lora, or leave it out")
        if full and self.modules_to_save:
            raise ValueError("modules_to_save goes with adapters, method is full; use method=lora, or leave it out")
        if not full and (self.freeze or self.train_only):
            raise ValueError(
                f"freeze and train_only choose weights of method=full, method is {self.method}, which trains adapters; "
                "leave them out, or name the adapted layers in lora.targets"
            )
        if self.vocab_multiple > 1 and not self.new_tokens:
            raise ValueError("vocab_multiple fills rows up beside new_tokens, there are none; leave it out")
        return self
