"""A model whose weights are still on disk: an engine reads them part by part, and only those that its rank keeps.

No rank ever holds more than its share and the part that it is about to divide.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from toolkit.models.names import plain_name


class Files(Protocol):
    """Weights on disk."""

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A copy of one tensor in CPU memory."""
        ...

    def fingerprint(self) -> str:
        """Tells these weights from others."""
        ...


class UnloadedModel:
    """A `transformers` causal language model with placeholders for weights, or a peft model around one.

    Args:
        module: on the meta device; every parameter becomes a placeholder of its shape on the CPU.
        files: where the weights come from.
        dtype: of weights and activations.
    """

    def __init__(self, module: Any, files: Files, dtype: torch.dtype) -> None:
        self.module = module
        """The model; adapters that are added to it are real from the start."""
        self.finish: Callable[[torch.nn.Module], None] | None = None
        """What a part that has its weights still needs."""
        self._files, self._dtype = files, dtype
        # Tied weights are one parameter under two names: the first is the one on disk.
        self._waiting: dict[torch.nn.Parameter, str] = {}
        self._filled: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
        self._made: dict[torch.nn.Parameter, Callable[[torch.Tensor], torch.nn.Parameter]] = {}
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

    def replace(
        self,
        placeholder: torch.nn.Parameter,
        other: torch.nn.Parameter,
        made: Callable[[torch.Tensor], torch.nn.Parameter],
    ) -> None:
        """Let another placeholder wait for a weight, which is kept in another form.

        Args:
            placeholder: that waits for it now.
            other: in its place in the module.
            made: what is kept of the weight.
        """
        self._waiting[other] = self._waiting.pop(placeholder)
        self._made[other] = made

    def read(self, name: str) -> torch.Tensor:
        """A copy of one tensor of `module` in CPU memory, by its name there: from disk, or the adapter that is made."""
        parameter = self.module.get_parameter(name)
        if parameter in self._waiting:
            return self._files.read(self._waiting[parameter], self._dtype)
        made: torch.Tensor = parameter.detach().to("cpu", copy=True)
        return made

    def whole(self, name: str, parameter: torch.nn.Parameter) -> torch.Tensor:
        """A copy of a parameter in CPU memory; the weight on disk where it is kept in 4 bits.

        Args:
            name: in `module`.
            parameter: whole on this rank.
        """
        if parameter.is_floating_point():
            return parameter.detach().to("cpu", copy=True)
        return self._files.read(plain_name(name), self._dtype)

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
                    made = self._made.get(parameter)
                    self._filled[parameter] = (
                        made(weight) if made else torch.nn.Parameter(weight, requires_grad=parameter.requires_grad)
                    )
                setattr(owner, name, self._filled[parameter])
        if self.finish is not None:
            self.finish(part)

    def load(self) -> Any:
        """Read everything; the module."""
        for part in self.parts():
            self.fill(part)
        return self.module
