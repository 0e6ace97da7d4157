"""What peft calls the tensors of an adapted model, and those of its file."""

PEFT_PREFIX = "base_model.model."
"""Opens the name of every weight of an adapted model."""
ADAPTER_NAME = "default"
"""peft's own name of the only adapter: part of its weights' names in a model, not in a file."""
MAGNITUDE = ".lora_magnitude_vector"
"""Follows a layer's name in that of its DoRA magnitudes."""


def plain_name(name: str) -> str:
    """A weight's name in the model that was adapted, by that in the adapted one."""
    return name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")


def saved_name(name: str) -> str:
    """What a tensor is called in a file, by its name in a model."""
    plain = name.replace(f".{ADAPTER_NAME}.", ".")
    # They were a plain vector once, and are in files still.
    return plain.removesuffix(".weight") if MAGNITUDE in plain else plain


def model_name(name: str) -> str:
    """What an adapter is called in a model, by its name in a file."""
    return f"{name.removesuffix('.weight')}.{ADAPTER_NAME}.weight"
