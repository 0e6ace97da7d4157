"""`optimizer` of a ds_config: which there are, what they take, and who reads the section.

Source: deepspeed 0.19.8 runtime/config.py (`DEEPSPEED_OPTIMIZERS`), runtime/engine.py (`_configure_basic_optimizer`,
`_is_supported_optimizer`: any class of torch.optim goes).
"""

from collections.abc import Iterator

from toolkit.check.context import Context, Values
from toolkit.check.finding import Edit, Finding
from toolkit.check.nearest import nearest
from toolkit.check.removed import ONE_BIT
from toolkit.check.value import shown

_OWN = ("Adam", "AdamW", "Adagrad", "Lamb", "Lion", "Muon", "MuAdam", "MuAdamW", "MuSGD")
_TORCH = (
    "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "Muon", "NAdam", "RAdam",
    "RMSprop", "Rprop", "SGD", "SparseAdam",
)  # fmt: skip
_ADAM = {
    "lr", "betas", "eps", "weight_decay", "amsgrad", "bias_correction", "adam_w_mode", "torch_adam", "foreach",
    "fp32_optimizer_states", "set_grad_none", "adamw_mode", "max_grad_norm", "maximize", "capturable",
    "differentiable", "fused",
}  # fmt: skip


_BETAS = 2
_OF_TWO_BETAS = ("adam", "adamw", "lamb", "lion")
_LIKE = 0.7
"""Likeness from which a name is suggested; it is written at 0.8."""
_OTHERS_NAMES = {
    **dict.fromkeys(
        ("fusedadam", "deepspeedcpuadam", "cpuadam", "adamw_torch", "adamw_torch_fused", "adamw_hf"), "AdamW"
    ),
    **dict.fromkeys(("fused_adam", "fused_adamw", "cpu_adam", "adamw_fused", "adamw_apex_fused"), "AdamW"),
    "fusedlamb": "Lamb",
    "fusedlion": "Lion",
    "deepspeedcpulion": "Lion",
}
"""Classes and other programs' words: DeepSpeed takes the class that suits the offload by itself."""


def optimizer(values: Values, context: Context) -> Iterator[Finding]:
    """The section `optimizer`."""
    if context.read_by == "toolkit":
        yield from _unread(values)
        return
    kind = values.get("optimizer", "type")
    if isinstance(values.get("optimizer"), dict) and not isinstance(kind, str):
        told = "names no `type`"
        yield Finding("warning", "optimizer", ("optimizer",), told, "the section is ignored", 'add "type": "AdamW"')
    if not isinstance(kind, str):
        return
    at = ("optimizer", "type")
    if kind.lower() in ONE_BIT:
        told = f"{kind} was removed in DeepSpeed 0.19.7"
        gone = context.since("0.19.7")
        effect = "DeepSpeed refuses it at start" if gone else "the file is refused after an upgrade"
        remedy = "use AdamW; ZeRO++ (`zero_quantized_gradients`) sends fewer bits"
        yield Finding("error" if gone else "warning", "removed-key", at, told, effect, remedy)
    elif kind.lower() not in map(str.lower, _OWN) and kind not in _TORCH:
        close = _OTHERS_NAMES.get(kind.lower()) or nearest(kind, [*_OWN, *_TORCH], cutoff=_LIKE)
        told = f"is {shown(kind)}, which neither DeepSpeed nor torch.optim has"
        told += f"; did you mean {close}?" if close else ""
        sure = nearest(kind, [*_OWN, *_TORCH]) if kind.lower() not in _OTHERS_NAMES else None
        edit = Edit("replace", f'"{sure}"') if sure else None
        yield Finding("error", "optimizer", at, told, "it is refused at start", f"use {close or 'AdamW'}", edit)
    params = values.get("optimizer", "params")
    for name in params if isinstance(params, dict) and kind.lower() in ("adam", "adamw") else ():
        if name not in _ADAM:
            close = nearest(str(name), sorted(_ADAM))
            told = f"unknown key; did you mean `{close}`?" if close else f"is no number of {kind}"
            remedy = f"write `{close}`" if close else "remove it"
            edit, effect = Edit("rename", close) if close else None, "a TypeError when the optimizer is made"
            yield Finding("error", "unknown-key", ("optimizer", "params", str(name)), told, effect, remedy, edit)
    yield from _betas(values)


def _betas(values: Values) -> Iterator[Finding]:
    betas = values.get("optimizer", "params", "betas")
    numbers = betas if isinstance(betas, list) else []
    if numbers and len(numbers) != _BETAS and str(values.get("optimizer", "type")).lower() in _OF_TWO_BETAS:
        told, effect = f"has {len(numbers)} numbers, needs {_BETAS}", "a ValueError when the optimizer is made"
        yield Finding("error", "wrong-value", ("optimizer", "params", "betas"), told, effect, "write as [0.9, 0.95]")
    for index, beta in enumerate(numbers):
        if isinstance(beta, int | float) and not isinstance(beta, bool) and not 0 <= beta < 1:
            told, remedy = f"is {beta:g}, needs to be at least 0 and below 1", "write a number as 0.9"
            at = ("optimizer", "params", "betas", index)
            yield Finding("error", "out-of-range", at, told, "the optimizer refuses it, or diverges", remedy)


def _unread(values: Values) -> Iterator[Finding]:
    for name, place in (("optimizer", "optimizer"), ("scheduler", "schedule")):
        if values.has(name):
            told, remedy = "is not read in a run of this toolkit", f"remove it and set `{place}` in recipe.yaml"
            yield Finding("error", "unread-section", (name,), told, "`toolkit launch` refuses the file", remedy)
