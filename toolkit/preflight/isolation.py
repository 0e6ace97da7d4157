"""Whether the documents of a packed row see each other: tried with the run's own engine before its first step.

Attention kernels differ in what they make of position ids that begin again; one that ignores them trains without a word
on documents that have read their neighbours.
"""

import torch

from toolkit.data.batches import Batch, packed
from toolkit.data.encode import IGNORED
from toolkit.engines.base import Engine
from toolkit.preflight.outcome import Outcome, judged

_NAME = "packing"
_TOKENS = 16
"""Of each of two documents."""
_TOLERANCE = 1e-6
"""Relative; what a token may not see has the weight 0 in attention, exactly, in any precision."""


def check_isolation(engine: Engine, *, rows: int, vocab_size: int) -> Outcome:
    """Change the first document of a row and compare the loss of the second; a collective.

    Args:
        engine: that the run trains with.
        rows: of a micro-batch.
        vocab_size: token ids below it are known to the model.
    """
    draw = torch.Generator().manual_seed(0)
    first, other, second = torch.randint(vocab_size, (3, _TOKENS), generator=draw)
    kept, moved = (engine.eval_loss([_row_of_two(one, second, rows=rows)]) for one in (first, other))
    fault = None
    if abs(kept - moved) > _TOLERANCE * abs(kept):
        fault = (
            f"the loss of a document moved from {kept:.6f} to {moved:.6f} with the one before it in the row; this "
            "attention does not keep documents apart"
        )
    said = "a document's loss does not move with the one before it in the row"
    return judged(_NAME, said, fault=fault, remedy="set `data.packing: false`, or use another attention")


def _row_of_two(first: torch.Tensor, second: torch.Tensor, *, rows: int) -> Batch:
    """As the run packs them; the second one's loss is asked for."""
    pack = [(first.tolist(), [IGNORED] * len(first)), (second.tolist(), second.tolist())]
    return packed([pack] * rows, size=rows, pad=0)
