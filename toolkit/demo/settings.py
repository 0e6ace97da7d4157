"""The demo's numbers, chosen together by measuring: data, model and recipe that two CPU cores finish in a minute."""

HELD_OUT_PER_KIND = 20
TRAIN_PER_KIND = 400

HIDDEN_SIZE = 256
INTERMEDIATE_SIZE = 704
NUM_LAYERS = 3
NUM_HEADS = 8
NUM_KV_HEADS = 4
MAX_POSITIONS = 256
VOCAB_SIZE = 1536

SEQ_LEN = 64
