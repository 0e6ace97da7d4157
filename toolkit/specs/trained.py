"""Which of a model's own tensors a run trains (adapters come on top), and how a vocabulary grows."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from toolkit.specs.model import LINEAR_LAYERS, ModelSpec
from toolkit.specs.workload import End, Workload

ENDS: dict[End, str] = {"embed_tokens": "model.embed_tokens.weight", "lm_head": "lm_head.weight"}
"""Name of the tensor of each end of a model."""
_TOLD = 3


def trained_weights(model: ModelSpec, workload: Workload) -> frozenset[str]:
    """Names of the model's own tensors that get a gradient.

    Args:
        model: of the run.
        workload: says which; what `trained_faults` finds in it is not looked at.
    """
    names = model.weight_shapes
    if workload.method != "full":
        return frozenset(_end(model, one) for one in workload.modules_to_save)
    only, frozen = workload.train_only, workload.freeze
    return frozenset(name for name in names if (not only or _matches(name, only)) and not _matches(name, frozen))


def trained_faults(model: ModelSpec, workload: Workload) -> Iterator[str]:
    """Patterns and adapters without a tensor, nothing left to train, new tokens that would stay as they begin."""
    names = list(model.weight_shapes)
    for field in ("freeze", "train_only"):
        for pattern in getattr(workload, field):
            if not any(fnmatchcase(name, pattern) for name in names):
                tied = "; the head is the embedding's own matrix" if model.tied_embeddings else ""
                yield (
                    f"{field}: `{pattern}` matches no tensor of {model.name}; there are {', '.join(names[:_TOLD])} "
                    f"and {len(names) - _TOLD} more{tied}"
                )
    if unknown := [name for name in workload.adapted if name not in (*LINEAR_LAYERS, "lm_head")]:
        yield f"lora.targets: no layer named {', '.join(unknown)}; there are {', '.join(LINEAR_LAYERS)} and lm_head"
    if "lm_head" in workload.adapted and model.tied_embeddings:
        yield "lora.targets: lm_head is the embedding's own matrix in this model; leave it out"
    trained = trained_weights(model, workload)
    if workload.method == "full" and not trained:
        yield "freeze and train_only leave nothing to train; freeze less"
    ends = {_end(model, one) for one in ENDS}
    if workload.new_tokens and (still := sorted(ends - trained)):
        where = "freeze less" if workload.method == "full" else f"set modules_to_save to {', '.join(_needed(model))}"
        yield f"new_tokens: their rows of {' and '.join(still)} would never be trained; {where}"


def grown(model: ModelSpec, workload: Workload) -> ModelSpec:
    """The model with rows for the workload's new tokens; one that has them already stays as it is."""
    stored, step = model.vocab_size - model.added_rows, workload.vocab_multiple
    rows = stored + len(workload.new_tokens)
    rows += -rows % step
    return model.model_copy(update={"vocab_size": rows, "added_rows": rows - stored})


def _end(model: ModelSpec, end: End) -> str:
    return ENDS["embed_tokens" if model.tied_embeddings else end]


def _needed(model: ModelSpec) -> Sequence[str]:
    return ["embed_tokens"] if model.tied_embeddings else list(ENDS)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
