"""Numbers that the run on several ranks and the run in one process have in common."""

from toolkit.specs.clipping import ClippingConfig
from toolkit.specs.communication import CommunicationConfig
from toolkit.specs.optimizer import OptimizerConfig, ParameterGroup

BY_NORM = ClippingConfig()
SYNCHRONOUS = CommunicationConfig()
GLOBAL_BATCH = 8
PACKED_BATCH = 4
"""Packed rows per step: of 29 samples, 8 rows or so."""
CLIP = 0.5
WEIGHT_DECAY = 0.01
GROUPS = OptimizerConfig(
    weight_decay=0.3,
    groups=(
        ParameterGroup(match="*layers.1.*", learning_rate_ratio=0.5, weight_decay=0.1),
        ParameterGroup(match="*layers.0.mlp.*", learning_rate_ratio=2.0),
    ),
)
"""Norms and embeddings do not decay, a layer and part of another have rates of their own."""
LEARNING_RATES = tuple(2e-3 * min(step + 1, 4) / 4 * (1 - step / 40) for step in range(20))
"""One per step and no two alike after the warm-up: a rate that arrives a step late would show."""
SEED = 42
LORA_RANK = 4
LORA_ALPHA = 32
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
