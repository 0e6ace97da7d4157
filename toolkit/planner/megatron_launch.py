"""What accelerate tells the ranks of engine mcore, and what they compare it with: the same values, of the plan."""

from collections.abc import Iterator, Mapping

from toolkit.planner.strategy import Strategy


def launch_values(strategy: Strategy, *, gradient_clipping: float) -> dict[str, str | float | None]:
    """Values of accelerate's `megatron_lm_` options (accelerate/commands/launch.py); None is not given."""
    layout, mode = strategy.layout, strategy.activation_checkpointing
    whole = mode == "full"
    return {
        "tp_degree": layout.tp,
        "pp_degree": layout.pp,
        # Its default is 2 (MegatronLMPlugin.__post_init__).
        "context_parallel_size": layout.cp,
        "sequence_parallelism": strategy.tp_sequence and layout.tp > 1,
        "use_distributed_optimizer": True,
        "gradient_clipping": gradient_clipping,
        "num_micro_batches": strategy.grad_accum,
        "calculate_per_token_loss": True,
        "recompute_activations": mode == "selective",
        "recompute_granularity": None if mode == "none" else mode,
        "recompute_method": "uniform" if whole else None,
        "recompute_num_layers": 1 if whole else None,
    }


def launch_faults(planned: Mapping[str, str | float | None], environment: Mapping[str, str]) -> Iterator[str]:
    """Which of them the environment of a rank has otherwise; a launcher that says nothing is right.

    Args:
        planned: of the plan.
        environment: where accelerate puts them as MEGATRON_LM_TP_DEGREE and the like.
    """
    for name, value in planned.items():
        given = environment.get(f"MEGATRON_LM_{name.upper()}")
        # Of YAML or of the command line: true is True.
        if given is not None and given.lower() != str(value).lower():
            yield f"megatron_lm_{name} is {given}, planned {'without it' if value is None else value}"
