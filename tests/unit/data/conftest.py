"""Tokenizers of both families: SentencePiece as in Llama-2, byte-level BPE as in Llama-3."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
]
WRITE_ROWS = Callable[..., Path]


@pytest.fixture(scope="session")
def llama2(shared_data: Path) -> Any:
    return AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "llama2")


@pytest.fixture(scope="session")
def small(shared_data: Path) -> Any:
    """512 tokens: quick to load, encodes anything."""
    return AutoTokenizer.from_pretrained(shared_data / "models" / "stories260K-hf-fp32")


@pytest.fixture(scope="session")
def llama3() -> Any:
    """Llama-3's splitting and special tokens over a small vocabulary."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(
        ["the answer is 42\n\nbecause   of  the question\n" * 20, "2 + 2 = 4 and  \n\n" * 20], trainer
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bpe.token_to_id("<|begin_of_text|>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", pad_token="<|end_of_text|>"
    )


@pytest.fixture
def write_rows(tmp_path: Path) -> WRITE_ROWS:
    """Write rows as JSON lines under a name in a fresh folder."""

    def write(rows: list[Any], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
