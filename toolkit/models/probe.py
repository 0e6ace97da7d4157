"""Logits of a few tokens from weights on disk, one matrix or layer in memory at a time.

Two layouts of one model are the same where these agree: `transformers` computes the one side, the other is Meta's own
arithmetic (meta-llama/llama-models, `models/llama3/model.py`), with pairs of rows turned as complex numbers.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from toolkit.models.meta_format import EMBEDDING, HEAD, LAST_NORM, MetaFiles
from toolkit.specs.meta_params import MetaParams

_NUM_TOKENS = 32
_FURTHEST_POSITION = 4096
_HEAD_ROWS = 16_384


class Weights(Protocol):
    """Tensors by name."""

    def read(self, name: str, dtype: torch.dtype, *, rows: range | None = None) -> torch.Tensor:
        """A copy of one tensor, or of some of its rows."""
        ...


@dataclass(frozen=True)
class Probe:
    """A row of tokens from all over the vocabulary, at positions so far apart that every rotary frequency shows."""

    ids: tuple[int, ...]
    positions: torch.Tensor
    """[tokens]."""
    dtype: torch.dtype
    """That weights are rounded to before anything is computed in fp32."""


def probe_of(vocab_size: int, *, max_seq_len: int, dtype: torch.dtype) -> Probe:
    """The tokens for a model.

    Args:
        vocab_size: its number of tokens.
        max_seq_len: positions that it was made for.
        dtype: of the weights that are compared.
    """
    # The step shares no factor with most vocabularies: no token comes twice in those that have enough.
    ids = tuple(number * 7919 % vocab_size for number in range(1, _NUM_TOKENS + 1))
    step = max(1, min(max_seq_len, _FURTHEST_POSITION) // _NUM_TOKENS)
    return Probe(ids, torch.arange(_NUM_TOKENS) * step, dtype)


def hf_logits(folder: Path, weights: Weights, probe: Probe) -> torch.Tensor:
    """By the layers of `transformers`: [tokens, vocabulary].

    Args:
        folder: holds config.json.
        weights: by their names in transformers.
        probe: the tokens.
    """
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    inner, hidden = model.model, _embedded(weights, "model.embed_tokens.weight", probe)[None]
    rotary = type(inner.rotary_emb)(config=model.config)
    positions = probe.positions[None]
    seen = {
        "attention_mask": _causal(len(probe.ids))[None, None],
        "position_ids": positions,
        "position_embeddings": rotary(hidden, position_ids=positions),
    }
    with torch.no_grad():
        for index, layer in enumerate(inner.layers):
            hidden = _run(layer, f"model.layers.{index}", weights, probe, hidden, **seen)
        hidden = _run(inner.norm, "model.norm", weights, probe, hidden)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return _logits(hidden[0], weights, head, config.vocab_size, probe)


def meta_logits(files: MetaFiles, probe: Probe) -> torch.Tensor:
    """By Meta's arithmetic: [tokens, vocabulary]."""
    params, hidden = files.params, _embedded(files, EMBEDDING, probe)
    angles = torch.outer(probe.positions.float(), _frequencies(params, tied=files.tied))
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]

    def read(name: str) -> torch.Tensor:
        return files.read(name, probe.dtype).float()

    def norm(name: str, values: torch.Tensor) -> torch.Tensor:
        return values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + params.norm_eps) * read(name)

    for index in range(params.n_layers):
        attention, mlp = f"layers.{index}.attention", f"layers.{index}.feed_forward"
        inputs = norm(f"{attention}_norm.weight", hidden)
        query, key, value = (
            (inputs @ read(f"{attention}.{name}.weight").T).view(len(probe.ids), -1, params.head_dim)
            for name in ("wq", "wk", "wv")
        )
        attended = _attend(_turned(query, turns), _turned(key, turns), value)
        hidden = hidden + attended @ read(f"{attention}.wo.weight").T
        inputs = norm(f"layers.{index}.ffn_norm.weight", hidden)
        gate = torch.nn.functional.silu(inputs @ read(f"{mlp}.w1.weight").T)
        hidden = hidden + (gate * (inputs @ read(f"{mlp}.w3.weight").T)) @ read(f"{mlp}.w2.weight").T
    hidden = norm(LAST_NORM, hidden)
    return _logits(hidden, files, HEAD if HEAD in files.shapes else EMBEDDING, files.shapes[EMBEDDING][0], probe)


def _frequencies(params: MetaParams, *, tied: bool) -> torch.Tensor:
    """Of the rotary embedding, [half a head]; source: `precompute_freqs_cis` and `apply_scaling`."""
    plain = 1.0 / (params.rope_theta ** (torch.arange(0, params.head_dim, 2).float() / params.head_dim))
    factor = params.rope_factor(tied=tied)
    if factor is None:
        return plain
    pretrained, low, high = 8192, 1, 4
    lengths = 2 * math.pi / plain
    smooth = (pretrained / lengths - low) / (high - low)
    between = (1 - smooth) * plain / factor + smooth * plain
    outside = torch.where(lengths > pretrained / low, plain / factor, plain)
    return torch.where((lengths >= pretrained / high) & (lengths <= pretrained / low), between, outside)


def _turned(values: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Each pair of [tokens, heads, head_dim] as a complex number, turned."""
    pairs = torch.view_as_complex(values.reshape(*values.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(2)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention of [tokens, heads, head_dim]: [tokens, heads x head_dim]."""
    shared = query.shape[1] // key.shape[1]
    query, key, value = (
        part.transpose(0, 1) for part in (query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1))
    )
    scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) + _causal(query.shape[1])
    return (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)


def _causal(tokens: int) -> torch.Tensor:
    return torch.full((tokens, tokens), -math.inf).triu(1)


def _embedded(weights: Weights, name: str, probe: Probe) -> torch.Tensor:
    rows = [weights.read(name, probe.dtype, rows=range(token, token + 1)) for token in probe.ids]
    return torch.cat(rows).float()


def _run(module: torch.nn.Module, prefix: str, weights: Weights, probe: Probe, *inputs: Any, **named: Any) -> Any:
    """A part of the model with its weights, which it does not keep."""
    held = {name: weights.read(f"{prefix}.{name}", probe.dtype).float() for name, _ in module.named_parameters()}
    return torch.func.functional_call(module, held, inputs, named)


def _logits(hidden: torch.Tensor, weights: Weights, name: str, vocab_size: int, probe: Probe) -> torch.Tensor:
    logits = torch.empty(len(hidden), vocab_size)
    for start in range(0, vocab_size, _HEAD_ROWS):
        rows = range(start, min(start + _HEAD_ROWS, vocab_size))
        logits[:, rows.start : rows.stop] = hidden @ weights.read(name, probe.dtype, rows=rows).float().T
    return logits
