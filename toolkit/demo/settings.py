"""The demo's numbers, chosen together by measuring: data, model and recipe that two CPU cores finish in a minute."""

HELD_OUT_PER_KIND = 24
"""Held-out questions of each kind, no two about the same values."""
TRAIN_PER_KIND = 400
"""Training questions of each kind; 14 kinds make 5600 rows."""
HELD_OUT_SAMPLES = 336
"""All held-out rows: 14 kinds of HELD_OUT_PER_KIND."""

HIDDEN_SIZE = 256
INTERMEDIATE_SIZE = 512
NUM_LAYERS = 3
NUM_HEADS = 8
NUM_KV_HEADS = 4
MAX_POSITIONS = 256
"""Positions the model is built for; the demo's rows have at most 29 tokens."""
VOCAB_SIZE = 1536
"""Upper limit: the trainer stops near 1060 tokens, when every word of the data is one token."""

SEQ_LEN = 64
"""Tokens a row may have; the longest rendered row has 29 and batches are padded to their own longest row."""
MAX_NEW_TOKENS = 24
"""Longest answer is 14 tokens with its end token (a JSON record); the rest shows an answer that does not end."""
GLOBAL_BATCH = 32
EPOCHS = 4.0
"""700 optimizer steps: 5600 rows * 4 / 32."""
LEARNING_RATE = 1.2e-3
BETA2 = 0.98
WARMUP_STEPS = 30
WARMUP_RATIO = 0.043
"""WARMUP_STEPS as a part of all steps."""
