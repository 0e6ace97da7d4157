"""Small LLaMAs made on the spot, and the same in Meta's layout, cut and ordered by indices written out here."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}
MLP_KEYS = {"multiple_of": 16}  # 64 x 8 / 3 = 170, rounded up to 176


def write_hf(
    folder: Path, *, tied: bool = False, dtype: torch.dtype = torch.float32, rope: Any = None, **changes: Any
) -> Path:
    """A Hugging Face folder with grouped-query attention; norms are random too.

    Args:
        folder: to be made.
        tied: the head is the embedding.
        dtype: of the weights.
        rope: `rope_parameters`.
        changes: other keys of config.json.
    """
    shape = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.06,
        "tie_word_embeddings": tied,
        "rope_parameters": rope or {"rope_type": "default", "rope_theta": 10_000.0},
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LlamaForCausalLM(LlamaConfig(**shape | changes))
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(parameter, 1.0, 0.2)
    model.to(dtype).save_pretrained(folder)
    return folder


def write_meta(folder: Path, hf: Path, *, shards: int = 1, by_rows: bool = False, **changes: Any) -> Path:
    """The same model as Meta would have written it.

    Args:
        folder: to be made.
        hf: of a model by `write_hf`.
        shards: files.
        by_rows: how the embedding is divided.
        changes: keys of params.json; `None` leaves one out.
    """
    folder.mkdir(parents=True)
    config, weights = json.loads((hf / "config.json").read_text()), load_file(hf / "model.safetensors")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    params = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "vocab_size": -1,
        "norm_eps": config["rms_norm_eps"],
        **MLP_KEYS,
    }
    params = {key: value for key, value in (params | changes).items() if value is not None}
    (folder / "params.json").write_text(json.dumps(params))
    embedding = weights["model.embed_tokens.weight"]
    whole = {
        "tok_embeddings.weight": (embedding, 0 if by_rows else 1),
        "output.weight": (weights.get("lm_head.weight", embedding), 0),
        "norm.weight": (weights["model.norm.weight"], None),
    }
    for number in range(config["num_hidden_layers"]):
        ours, theirs = f"model.layers.{number}", f"layers.{number}"
        for name, parts in {"q_proj": ("wq", heads), "k_proj": ("wk", kv_heads)}.items():
            whole[f"{theirs}.attention.{parts[0]}.weight"] = (
                in_pairs(weights[f"{ours}.self_attn.{name}.weight"], parts[1]),
                0,
            )
        whole |= {
            f"{theirs}.attention.wv.weight": (weights[f"{ours}.self_attn.v_proj.weight"], 0),
            f"{theirs}.attention.wo.weight": (weights[f"{ours}.self_attn.o_proj.weight"], 1),
            f"{theirs}.feed_forward.w1.weight": (weights[f"{ours}.mlp.gate_proj.weight"], 0),
            f"{theirs}.feed_forward.w2.weight": (weights[f"{ours}.mlp.down_proj.weight"], 1),
            f"{theirs}.feed_forward.w3.weight": (weights[f"{ours}.mlp.up_proj.weight"], 0),
            f"{theirs}.attention_norm.weight": (weights[f"{ours}.input_layernorm.weight"], None),
            f"{theirs}.ffn_norm.weight": (weights[f"{ours}.post_attention_layernorm.weight"], None),
        }
    # The last file first: nothing may depend on the order of a folder's entries.
    for shard in reversed(range(shards)):
        content = {
            name: (tensor if axis is None else tensor.chunk(shards, axis)[shard]).clone()
            for name, (tensor, axis) in whole.items()
        }
        torch.save(content, folder / f"consolidated.{shard:02d}.pth")
    return folder


def in_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows as Meta has them: 2i and 2i + 1 of a head are i and half + i of transformers."""
    size = len(weight) // heads
    order = [head * size + row % 2 * (size // 2) + row // 2 for head in range(heads) for row in range(size)]
    return weight[order]


def rewrite(path: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Replace or add tensors of a .pth file; None removes one."""
    content = torch.load(path, weights_only=True) | changes
    torch.save({name: tensor for name, tensor in content.items() if tensor is not None}, path)
