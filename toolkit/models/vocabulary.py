"""Rows for new tokens, made while the embedding and the head are read.

A new row is the mean of the old ones (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models"):
it takes at most a share of 1 / vocabulary of any probability, where one of random or zero weights may take nearly all.
"""

from collections.abc import Sequence

import torch
from transformers import AddedToken, PreTrainedTokenizerFast

from toolkit.errors import SpecError
from toolkit.models.weights import WeightFiles
from toolkit.specs.trained import ENDS

_BLOCK_ROWS = 4096


def add_tokens(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str]) -> None:
    """Give the tokenizer special tokens, in this order, with ids behind all that it has.

    Raises:
        SpecError: it has one of them.
    """
    known = tokenizer.get_vocab()
    if taken := [f"{token} is token {known[token]}" for token in tokens if token in known]:
        raise SpecError(f"new_tokens: {', '.join(taken)} of the tokenizer already; leave out what is there")
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    first = max(known.values()) + 1
    if ids != list(range(first, first + len(tokens))):
        raise SpecError(f"new_tokens: the tokenizer numbers them {ids}, needed is {first} on; use another tokenizer")


class GrownFiles:
    """`WeightFiles` whose embedding and head have more rows.

    Args:
        files: of the checkpoint.
        first: id of the first new token. Rows from there on that the checkpoint has are of no token, and made anew.
        vocab_size: rows that are wanted.
    """

    def __init__(self, files: WeightFiles, *, first: int, vocab_size: int) -> None:
        self._files, self._first, self._rows = files, first, vocab_size

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """As `WeightFiles.read`; the same numbers on every rank, whatever it keeps of them."""
        weight = self._files.read(name, dtype)
        if name not in ENDS.values():
            return weight
        old = weight[: self._first]
        total = torch.zeros(weight.shape[1], dtype=torch.float64)
        for start in range(0, len(old), _BLOCK_ROWS):
            total += old[start : start + _BLOCK_ROWS].sum(0, dtype=torch.float64)
        mean = (total / len(old)).to(dtype)
        return torch.cat([old, mean.expand(self._rows - len(old), -1)])

    def fingerprint(self) -> str:
        """Of the weights on disk."""
        return self._files.fingerprint()
