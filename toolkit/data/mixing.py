"""Which rows of the sources make an epoch: no duplicates if so wished, none held out, as often as the weights say.

All of it is row numbers; the rows stay where they are. An epoch has the same rows as any other, so that packs and the
number of steps are the same; their order is the loader's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets

from toolkit.data.cache import Tally
from toolkit.data.digests import stored_digests
from toolkit.errors import DataError
from toolkit.specs.data import DataConfig, DataSource

_BATCH_ROWS = 10_000


class Opened(NamedTuple):
    """A source and its prepared rows."""

    source: DataSource
    rows: Dataset
    tally: Tally


@dataclass(frozen=True)
class Chosen:
    """What becomes of one source's prepared rows: numbers of rows, int64, ascending."""

    samples: np.ndarray
    """Rows that may be trained on, each once."""
    epoch: np.ndarray
    """Rows of an epoch; a row that occurs twice stands here twice."""
    held_out: np.ndarray
    """Rows kept for evaluation."""
    duplicates: int
    """How many are left out for an earlier row like them."""
    copies: int
    """How many are left out for a held-out row like them."""


def mixture(sources: Sequence[Opened], config: DataConfig, *, held_out: Opened | None, seed: int) -> list[Chosen]:
    """What becomes of each source's rows: without duplicates first, then what is held out, then what is repeated.

    In this order no row is on both sides, and a source's weight says nothing of which rows are held out.

    Raises:
        DataError: nothing of a source is left to train on.
    """
    if config.deduplicate:
        chosen = _distinct(sources, held_out)
    else:
        chosen = [_Kept(np.arange(len(each.rows)), 0, 0) for each in sources]
    sizes = [len(each.rows) for each in chosen]
    counts = [0] * len(sizes)
    if held_out is None and config.held_out_fraction:
        counts = [round(size * config.held_out_fraction) for size in sizes]
        largest = sizes.index(max(sizes))
        counts[largest] = max(counts[largest], 1)
    return [
        _chosen(kept, opened, held_out=count, seeds=(_seed(seed, index), _seed(~seed, index)))
        for index, (kept, opened, count) in enumerate(zip(chosen, sources, counts, strict=True))
    ]


class _Kept(NamedTuple):
    rows: np.ndarray
    duplicates: int
    copies: int


def _chosen(kept: _Kept, opened: Opened, *, held_out: int, seeds: tuple[int, int]) -> Chosen:
    """One source's rows, divided by the first seed; of what is less than a pass the second chooses."""
    source, size = opened.source, len(kept.rows)
    if held_out >= size:
        raise DataError(
            f"{source.label}: held_out_fraction takes {held_out} of {size} rows, none is left to train on; lower it "
            "or add rows"
            if size
            else f"{source.label}: all its rows are in another source or held out; leave it out of `train`, or set "
            "`deduplicate: false`"
        )
    order = _order(kept.rows, opened, held_out=held_out, seed=seeds[0]) if held_out else np.arange(size)
    samples = np.sort(kept.rows[order[held_out:]])
    passes, rest = divmod(max(round(len(samples) * source.weight), 1), len(samples))
    further = samples[_permutation(len(samples), seeds[1])[:rest]] if rest else samples[:0]
    epoch = np.sort(np.concatenate([np.repeat(samples, passes), further]))
    return Chosen(samples, epoch, np.sort(kept.rows[order[:held_out]]), kept.duplicates, kept.copies)


def _order(rows: np.ndarray, opened: Opened, *, held_out: int, seed: int) -> np.ndarray:
    """Places of the rows, those to be held out first: whole texts as far as they fit, and of one more its end.

    So rows of at most one text are on both sides, and there the trained ones come first.
    """
    if not opened.tally.pieces:
        return _permutation(len(rows), seed)
    text_of_row = np.cumsum(column(opened.rows, "piece") == 0)[rows]
    sizes = np.bincount(text_of_row)
    texts = np.flatnonzero(sizes)
    texts = texts[_permutation(len(texts), seed)]
    rank = np.empty_like(sizes)
    rank[texts] = np.arange(len(texts))
    order = np.argsort(rank[text_of_row], kind="stable")
    ends = np.cumsum(sizes[texts])
    divided = int(np.searchsorted(ends, held_out, side="right"))  # the text that does not fit as a whole
    start, end = ends[divided] - sizes[texts[divided]], ends[divided]
    order[start:end] = np.roll(order[start:end], held_out - start)
    return order


def _distinct(sources: Sequence[Opened], held_out: Opened | None) -> list[_Kept]:
    """The first of rows that have the same tokens and labels, over all sources, unless a held-out row has them too."""
    before = [] if held_out is None else [held_out.rows]
    rows = [*before, *(each.rows for each in sources)]
    first = _first_alike(np.concatenate([stored_digests(each) for each in rows]))
    ends = np.cumsum([len(each) for each in rows])[:-1]
    held = 0 if held_out is None else len(held_out.rows)
    chosen = []
    for start, firsts in zip([0, *ends], np.split(first, ends), strict=True):
        new = firsts == np.arange(start, start + len(firsts))
        copies = int((firsts < held).sum())
        chosen.append(_Kept(np.flatnonzero(new), len(new) - int(new.sum()) - copies, copies))
    return chosen[len(before) :]


def rows_of(sources: Sequence[Opened], numbers: Sequence[np.ndarray]) -> Dataset:
    """Rows of several sources as one data set: those of the first, then those of the next."""
    if len(sources) == 1 and np.array_equal(numbers[0], np.arange(len(sources[0].rows))):
        return sources[0].rows
    whole = concatenate_datasets([each.rows for each in sources])
    starts = np.cumsum([0, *(len(each.rows) for each in sources)])
    return whole.select(np.concatenate([own + start for own, start in zip(numbers, starts[:-1], strict=True)]))


def spread(sources: Sequence[Opened], numbers: Sequence[np.ndarray]) -> Dataset:
    """As `rows_of`, in an order of which any beginning has about as large a part of each source."""
    together = rows_of(sources, numbers)
    if len(sources) == 1:
        return together
    places = np.concatenate([(np.arange(len(own)) + 0.5) / max(len(own), 1) for own in numbers])
    return together.select(np.argsort(places, kind="stable"))


def column(rows: Dataset, name: str) -> np.ndarray:
    """A column of numbers of a data set without a selection, in flat memory but for the numbers."""
    parts = [
        batch[name].to_numpy() for batch in rows.select_columns(name).with_format("arrow").iter(batch_size=_BATCH_ROWS)
    ]
    return np.concatenate(parts)


def _first_alike(digests: np.ndarray) -> np.ndarray:
    """Of each row the number of the first row with the same digest: int64 [rows]."""
    # Sorting takes a third of the memory of a set of Python's; it is stable, so the first of equals stays the first.
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (digests[order[1:]] != digests[order[:-1]]).any(1)
    first = np.empty_like(order)
    first[order] = order[new][np.cumsum(new) - 1]
    return first


def _permutation(size: int, seed: int) -> np.ndarray:
    order: np.ndarray = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
    return order


def _seed(seed: int, index: int) -> int:
    # The first source is split as a single one always was.
    return (seed + 1_000_003 * index) % 2**63
