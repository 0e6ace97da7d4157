"""The engine on megatron-core: tensor, sequence, pipeline (interleaved) and context parallelism."""
