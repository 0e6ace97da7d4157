"""Small LLaMAs with random weights and rows of very unequal length, made on the spot."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from toolkit.data.packing import Packs, pack, token_counts

VOCAB_SIZE = 96
SEQ_LEN = 48
PAD, BOS, EOS = 0, 1, 2


def write_model(
    folder: Path,
    *,
    tied: bool = False,
    spread: float = 0.06,
    window: int | None = None,
    rope: Mapping[str, Any] = MappingProxyType({}),
    **sizes: int,
) -> Path:
    """A LLaMA with grouped-query attention and a tokenizer of as many words, ready for `load_pretrained`.

    Args:
        folder: to be made.
        tied: the head is the embedding.
        spread: standard deviation of the weights; above LLaMA's own 0.02 the logits say more and errors grow faster.
        window: tokens that a token sees; makes it a Mistral.
        rope: how rotary embeddings are stretched, as config.json has it.
        sizes: `num_hidden_layers` and other numbers of config.json.
    """
    shape = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    tokens = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    rest = {"tie_word_embeddings": tied, "initializer_range": spread, "dtype": torch.float32}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if window is None:
            stretched = {"rope_parameters": dict(rope)} if rope else {}
            LlamaForCausalLM(LlamaConfig(**shape | sizes, **tokens, **rest, **stretched)).save_pretrained(folder)
        else:
            windowed = MistralConfig(**shape | sizes, **tokens, **rest, sliding_window=window, head_dim=12)
            MistralForCausalLM(windowed).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """One token per word: `<pad>`, `<s>`, `</s>`, then w3, w4, ..."""
    words = {"<pad>": PAD, "<s>": BOS, "</s>": EOS} | {f"w{number}": number for number in range(3, VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def training_rows(vocab_size: int = VOCAB_SIZE) -> Dataset:
    """29 prompts with answers: every fourth answer has 30 tokens or so, the others 1 to 4.

    An epoch's last batch holds 5 rows of the usual 8, so a rank gets micro-batches without any supervised token.
    """
    generator = torch.Generator().manual_seed(7)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    input_ids, labels = [], []
    for index in range(29):
        prompt, answer = number(2, 14), number(26, 33) if index % 4 == 0 else number(1, 4)
        # Every second token follows from the one before it: something to learn.
        ids = [BOS]
        while len(ids) < prompt + answer:
            ids.append(3 + (ids[-1] * 7) % (vocab_size - 3) if len(ids) % 2 else number(3, vocab_size - 1))
        input_ids.append(ids)
        labels.append([-100] * prompt + ids[prompt:])
    return Dataset.from_dict({"input_ids": input_ids, "labels": labels})


def training_packs() -> Packs:
    """Those rows in rows of SEQ_LEN tokens."""
    return pack(token_counts(training_rows()), capacity=SEQ_LEN)
