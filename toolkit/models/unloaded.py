"""A model whose weights are still on disk: an engine reads them part by part, and only those that its rank keeps.

No rank ever holds more than its share and the part that it is about to divide.
"""

from collections.abc import Iterator
from typing import Any

import torch

from toolkit.models.weights import WeightFiles


class UnloadedModel:
    """A `transformers` causal language model with placeholders for weights, or a peft model around one.

    Args:
        module: on the meta device; every parameter becomes a placeholder of its shape on the CPU.
        files: where the weights come from.
        dtype: of weights and activations.
    """

    def __init__(self, module: Any, files: WeightFiles, dtype: torch.dtype) -> None:
        self.module = module
        """The model; adapters that are added to it are real from the start."""
        self._files, self._dtype = files, dtype
        # Tied weights are one parameter under two names: the first is the one on disk.
        self._waiting: dict[torch.nn.Parameter, str] = {}
        self._filled: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
        placeholders: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
        for prefix, owner in module.named_modules():
            for name, parameter in owner.named_parameters(recurse=False):
                if parameter not in placeholders:
                    # One number in memory, seen as a whole weight: not on the meta device, where peft would put the
                    # adapters too.
                    empty = torch.zeros(1, dtype=dtype).expand(parameter.shape)
                    placeholders[parameter] = torch.nn.Parameter(empty)
                    self._waiting[placeholders[parameter]] = f"{prefix}.{name}"
                setattr(owner, name, placeholders[parameter])

    @property
    def base(self) -> Any:
        """The `transformers` model itself, without peft's wrapping."""
        return self.module.get_base_model() if hasattr(self.module, "get_base_model") else self.module

    def fingerprint(self) -> str:
        """Of the weights on disk."""
        return self._files.fingerprint()

    def parts(self) -> Iterator[torch.nn.Module]:
        """What is read at once: embedding, each decoder layer, last norm, head; a tied head with its embedding."""
        inner, head = self.base.model, self.base.lm_head
        tied = self.base.config.tie_word_embeddings
        yield torch.nn.ModuleList([inner.embed_tokens, head]) if tied else inner.embed_tokens
        yield from (*inner.layers, inner.norm)
        if not tied:
            yield head

    def fill(self, part: torch.nn.Module) -> None:
        """Read the weights of one part of `module` that are not there yet; a tied head shares what is there."""
        for owner in part.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                if parameter not in self._waiting:
                    continue
                if parameter not in self._filled:
                    weight = self._files.read(self._waiting[parameter], self._dtype)
                    self._filled[parameter] = torch.nn.Parameter(weight, requires_grad=parameter.requires_grad)
                setattr(owner, name, self._filled[parameter])

    def load(self) -> Any:
        """Read everything; the module."""
        for part in self.parts():
            self.fill(part)
        return self.module
