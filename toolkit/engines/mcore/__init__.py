"""The engine on megatron-core: tensor, sequence, pipeline (interleaved) and context parallelism."""

import warnings

# Here, because Megatron warns while it is imported, on every rank: that Transformer Engine and Apex are not installed,
# which nothing here needs, of settings of its own with their defaults, and of gradients that it reads on purpose.
warnings.filterwarnings("ignore", module=r"megatron\.")
warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
