"""LLaMA as megatron-core has it: its configuration from ours, and this rank's chunks of the model, still empty."""

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from toolkit.engines.mcore.layers import Attention, RMSNorm
from toolkit.engines.mcore.table import padded_vocab
from toolkit.planner.plan import Plan
from toolkit.specs.workload import Precision

_RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    # The attention core: what it keeps grows with the square of the sequence (arXiv 2205.05198, section 5).
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Llama(GPTModel):  # type: ignore[misc]
    """A chunk of the model. Rows that fill the vocabulary up take no part: in Megatron's own they add to every loss."""

    real_vocab: int
    """Rows of embedding and head that are the model's."""

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each token, fp32 [batch, seq].

        Args:
            labels: the next tokens, [batch, seq].
            logits: this rank's part, [seq, batch, vocabulary / tp].
        """
        columns = logits.shape[-1]
        filled = min(columns, (self.tp_group.rank() + 1) * columns - self.real_vocab)
        if filled > 0:
            logits[..., -filled:] = torch.finfo(logits.dtype).min
        loss: torch.Tensor = super().compute_language_model_loss(labels, logits)
        return loss


def transformer_config(plan: Plan, hf: Any) -> TransformerConfig:
    """Megatron's configuration.

    Args:
        plan: the decisions.
        hf: the model's configuration, as `transformers` has it.
    """
    model, strategy, layout = plan.model, plan.strategy, plan.strategy.layout
    gpu, dtype = torch.cuda.is_available(), DTYPES[plan.workload.precision]
    interleaved = strategy.vpp > 1
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.intermediate_size,
        num_attention_heads=model.num_heads,
        num_query_groups=model.num_kv_heads,
        kv_channels=model.head_dim,
        layernorm_epsilon=hf.rms_norm_eps,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        autocast_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=strategy.vpp if interleaved else None,
        pipeline_model_parallel_layout=stage_layout(plan) if layout.pp > 1 else None,
        context_parallel_size=layout.cp,
        sequence_parallel=strategy.tp_sequence and layout.tp > 1,
        use_cpu_initialization=not gpu,
        perform_initialization=False,
        # The schedule averages over nothing: the loss of a micro-batch comes as its part of the mean.
        calculate_per_token_loss=True,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        # With two interleaved stages both directions are between the same two ranks, and sends that are batched mix
        # them up: a gradient norm off by 72, every time. Megatron-LM's arguments refuse it, the library does not.
        batch_p2p_comm=gpu and not interleaved,
        overlap_p2p_comm=gpu and interleaved,
        # gloo still reads what it sends when the buffer would be freed: wrong gradients now and then.
        deallocate_pipeline_outputs=gpu,
        transformer_impl="local",
        **_RECOMPUTE[strategy.activation_checkpointing],
    )


def stage_layout(plan: Plan) -> list[list[str]]:
    """What each chunk holds, in the order of the model: chunk `c` of stage `s` is the `c * pp + s`-th."""
    layers = plan.strategy.chunks
    chunks = [["decoder"] * stage[number] for number in range(plan.strategy.vpp) for stage in layers]
    return [["embedding", *chunks[0]], *chunks[1:-1], [*chunks[-1], "loss"]]


def build_chunks(config: TransformerConfig, plan: Plan, *, frequencies: torch.Tensor) -> list[Llama]:
    """This rank's chunks, one per virtual stage; their weights hold anything.

    Args:
        config: Megatron's.
        plan: the decisions.
        frequencies: of the rotary embedding, fp32 [head_dim / 2]. Megatron stretches them as Llama 3.x does, by
            constants that are written into it: wrong by a factor of 31 for another original length.
    """
    chunks = []
    for number in range(plan.strategy.vpp):
        stage = number if plan.strategy.vpp > 1 else None
        chunk = Llama(
            config=config,
            transformer_layer_spec=TransformerBlockSubmodules(
                layer_specs=[_layer_spec()] * get_num_layers_to_build(config, stage), layer_norm=RMSNorm
            ),
            vocab_size=padded_vocab(plan.model.vocab_size, plan.strategy.layout.tp),
            max_sequence_length=plan.workload.seq_len,
            position_embedding_type="rope",
            share_embeddings_and_output_weights=plan.model.tied_embeddings,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
            vp_stage=stage,
        )
        chunk.real_vocab = plan.model.vocab_size
        rotary = chunk.rotary_pos_emb
        rotary.inv_freq = frequencies.to(rotary.inv_freq.device, torch.float32, copy=True)
        chunks.append(chunk)
    return chunks


def _layer_spec() -> Any:
    spec = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    layer.self_attention.submodules.core_attention = Attention
    return spec
