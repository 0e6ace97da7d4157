"""A checkpoint as safetensors reads it and transformers runs it, with nothing of this toolkit's in between."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from toolkit.errors import CheckpointError, MachineError
from toolkit.models.config import load_config
from toolkit.specs.machine import free_memory
from toolkit.specs.model import ModelSpec
from toolkit.specs.model_source import weights_source
from toolkit.units import GiB, human_bytes

_MOST_BYTES = 20 * GiB
"""What a disk gives in half a minute or less."""
_SHARE = 0.5
"""Of the free memory."""
_SMALL = 2_000_000_000
"""Parameters up to which it computes in fp32."""


def plain_loss(name: str, spec: ModelSpec, rows: Sequence[Sequence[int]], *, known: int | None = None) -> float:
    """Mean cross-entropy of all tokens after the first of each row, in nats; rows one by one, on the CPU.

    Args:
        name: of the checkpoint.
        spec: of the model, with rows for new tokens.
        rows: token ids.
        known: id of the first new token, where there are any: their rows are the mean of those before it.

    Raises:
        MachineError: it takes too long, or more memory than there is.
        CheckpointError: it is not in safetensors, or not all of it.
    """
    model = _loaded(name, spec)
    if known is not None:
        _grow(model, known, spec.vocab_size)
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor(row)
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
            count += len(row) - 1
    return total / max(count, 1)


def _loaded(name: str, spec: ModelSpec) -> Any:
    dtype = torch.float32 if spec.num_params <= _SMALL else torch.bfloat16
    needed, free = spec.num_params * dtype.itemsize, free_memory()
    if needed > _MOST_BYTES:
        raise MachineError(f"its {human_bytes(needed)} take longer to read than half a minute")
    if needed > _SHARE * free:
        raise MachineError(f"it takes {human_bytes(needed)} of this host's memory, {human_bytes(free)} are free")
    files = sorted(Path(weights_source(name)).glob("model*.safetensors"))
    if not files:
        raise CheckpointError("the checkpoint has no model*.safetensors")
    config = load_config(name)
    # Not by `from_pretrained`: once DeepSpeed runs ZeRO-3, that divides what it reads over all ranks.
    with torch.device("meta"):
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    try:
        weights = {key: weight.to(dtype) for file in files for key, weight in load_file(file).items()}
        model.load_state_dict(weights, strict=False, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        text = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"transformers does not read it ({type(error).__name__}: {text})") from None
    model.tie_weights()
    if missing := [key for key, weight in model.named_parameters() if weight.is_meta]:
        raise CheckpointError(f"its safetensors have no {missing[0]}")
    # Its frequencies are computed from the config, not read: made again where they are real.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    return model.eval()


def _grow(model: Any, known: int, vocab_size: int) -> None:
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    for end in {model.get_input_embeddings(), model.get_output_embeddings()}:
        end.weight.data[known:] = end.weight.data[:known].mean(0)
