"""A model from Meta's layout into a Hugging Face folder or back: streamed, read again, compared, published whole."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from toolkit.checkpoints.layouts import MetaLayout, blocks, write_safetensors, write_shards
from toolkit.checkpoints.publish import published
from toolkit.errors import CheckpointError, ConfigError, SpecError
from toolkit.models.meta_format import DTYPES, EMBEDDING, HEAD, MetaFiles, divided_sizes
from toolkit.models.meta_weights import MetaWeights, is_finite
from toolkit.models.pretrained import DTYPES as PRECISIONS
from toolkit.models.probe import hf_logits, meta_logits, probe_of
from toolkit.models.weights import WeightFiles
from toolkit.specs.meta_params import MetaParams
from toolkit.specs.model import ModelSpec
from toolkit.specs.model_source import find_config

MAX_LOGIT_DIFFERENCE = 1e-4
"""Between the logits of source and result, of the largest logit where that is above 1."""

_PRECISIONS = {str(name): dtype for name, dtype in PRECISIONS.items()}
# The first of each is what its own readers cannot do without.
_META_TOKENIZER = ("tokenizer.model",)
_HF_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class ConvertOptions:
    """What may be chosen; None stands for what the source or its release has."""

    num_shards: int | None = None
    """Files to write in Meta's layout; one where it is not given."""
    vocab_split: str | None = None
    """How these divide the embedding: rows or columns."""
    dtype: str | None = None
    """Of the weights to write: fp32, bf16 or fp16."""
    max_seq_len: int | None = None
    """Longest sequence in tokens, for config.json."""
    tokenizer: Path | None = None
    """Folder of the tokenizer's files; the source where it is not given."""
    overwrite: bool = False
    """Replace a model at the target."""


@dataclass(frozen=True)
class Conversion:
    """What was written, found equal to its source."""

    layout: Literal["meta", "hf"]
    spec: ModelSpec
    dtype: str
    """Of the weights, as `bfloat16`."""
    num_files: int
    """That hold weights."""
    logit_difference: float
    """Largest between source and result."""
    notes: tuple[str, ...]
    """What params.json or config.json does not say, and which files of the tokenizer came along."""


def convert_model(source: Path, target: Path, options: ConvertOptions) -> Conversion:
    """Write the other layout of a model.

    Args:
        source: folder in Meta's layout (params.json, consolidated.NN.pth) or a Hugging Face one (config.json).
        target: folder to make.
        options: what may be chosen.

    Raises:
        ConfigError: the target is there already, or an option is for the other direction.
        SpecError: params.json or config.json cannot be used, or the other layout cannot say what it says.
        CheckpointError: weights are missing, damaged, of another model or not finite (by file and name); the disk is
            full; or what was read back is not what was written.
    """
    layout = _layout_of(source)
    _check_target(source, target, overwrite=options.overwrite)
    if options.dtype is not None and options.dtype not in _PRECISIONS:
        raise ConfigError(f"--dtype {options.dtype}: needs {', '.join(_PRECISIONS)}")
    return _from_meta(source, target, options) if layout == "meta" else _to_meta(source, target, options)


def _from_meta(source: Path, target: Path, options: ConvertOptions) -> Conversion:
    given = {"--shards": options.num_shards, "--vocab-split": options.vocab_split}
    _refuse(given, f"is for writing Meta's layout, and {source} is in it")
    files = MetaFiles(source, mixed=options.dtype is not None)
    dtype = _PRECISIONS[options.dtype] if options.dtype else DTYPES[files.dtype]
    config = files.params.config(
        vocab_size=files.shapes[EMBEDDING][0], tied=files.tied, dtype=_name(dtype), max_seq_len=options.max_seq_len
    )
    spec = ModelSpec.from_config(config, name=str(source))
    weights = MetaWeights(files, spec.weight_shapes)
    probe = probe_of(spec.vocab_size, max_seq_len=spec.max_position_embeddings, dtype=dtype)
    with published(target, replace=options.overwrite) as partial:
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_safetensors(partial, weights, spec.weight_shapes, dtype=dtype, head_dim=spec.head_dim)
        result = WeightFiles(str(partial))
        result.check(spec.weight_shapes)
        _compare(weights, result, spec, dtype)
        difference = _difference(meta_logits(files, probe), hf_logits(partial, result, probe))
        notes = _copy_tokenizer(options.tokenizer or source, partial, _HF_TOKENIZER)
        num_files = len(list(partial.glob("*.safetensors")))
    if options.max_seq_len is None and files.params.max_seq_len is None:
        taken = f"max_position_embeddings {spec.max_position_embeddings}: params.json does not say it, this is that of "
        notes = (taken + "the release with such params; --max-seq-len gives another", *notes)
    return Conversion("hf", spec, _name(dtype), num_files, difference, notes)


def _to_meta(source: Path, target: Path, options: ConvertOptions) -> Conversion:
    _refuse({"--max-seq-len": options.max_seq_len}, "is for writing config.json; params.json has no place for it")
    config, where = find_config(source)
    spec = ModelSpec.from_config(config, name=str(source), source=where)
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise SpecError(f"{where}: hidden_act is {activation}, needs silu: Meta's layout knows nothing else")
    # 1e-6 is what transformers takes where the key is missing.
    layout = _layout(MetaParams.of_model(spec, norm_eps=config.get("rms_norm_eps", 1e-6)), spec, options)
    weights = WeightFiles(str(source))
    weights.check(spec.weight_shapes)
    found = _dtype(weights, spec, mixed=options.dtype is not None)
    dtype = _PRECISIONS[options.dtype] if options.dtype else found
    probe = probe_of(spec.vocab_size, max_seq_len=spec.max_position_embeddings, dtype=dtype)
    with published(target, replace=options.overwrite) as partial:
        write_shards(partial, weights, spec.weight_shapes, layout=layout, dtype=dtype)
        files = MetaFiles(partial)
        if spec.tied_embeddings and not files.tied:
            raise _not_as_written(HEAD)
        _compare(weights, MetaWeights(files, spec.weight_shapes), spec, dtype)
        difference = _difference(hf_logits(source, weights, probe), meta_logits(files, probe))
        notes = _copy_tokenizer(options.tokenizer or source, partial, _META_TOKENIZER)
    lost = f"max_position_embeddings {spec.max_position_embeddings} is not kept: params.json has no key for it"
    return Conversion("meta", spec, _name(dtype), layout.num_shards, difference, (lost, *notes))


def _layout_of(source: Path) -> Literal["meta", "hf"]:
    meta, hf = ((source / name).is_file() for name in ("params.json", "config.json"))
    if meta and hf:
        raise ConfigError(f"{source}: holds params.json and config.json; give a folder that holds one layout alone")
    if not meta and not hf:
        raise ConfigError(
            f"{source}: holds neither params.json (Meta's layout) nor config.json (Hugging Face's); "
            "give the folder of a model"
        )
    return "meta" if meta else "hf"


def _check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    if not (target.exists() or target.is_symlink()):
        return
    if not overwrite:
        raise ConfigError(f"{target}: is there already; give --overwrite or another folder")
    # Only a model is worth less than its replacement: a slip must not remove a home folder.
    if target.is_symlink() or not any((target / name).is_file() for name in ("params.json", "config.json")):
        raise ConfigError(f"{target}: is no folder of a model, --overwrite does not replace it; give another folder")
    if source.resolve().is_relative_to(target.resolve()):
        raise ConfigError(f"{target}: is or holds the source, --overwrite does not replace it; give another folder")


def _refuse(given: Mapping[str, object], reason: str) -> None:
    if names := [option for option, value in given.items() if value is not None]:
        raise ConfigError(f"{' and '.join(names)} {reason}; leave it out")


def _layout(params: MetaParams, spec: ModelSpec, options: ConvertOptions) -> MetaLayout:
    count = 1 if options.num_shards is None else options.num_shards
    sizes = divided_sizes(params, vocab_size=spec.vocab_size)
    if faults := [f"{size} {what}" for what, size in sizes.items() if count < 1 or size % count]:
        most = math.gcd(*sizes.values())
        possible = [str(number) for number in range(1, most + 1) if most % number == 0]
        raise ConfigError(f"--shards {count} does not divide {', '.join(faults)}; use {', '.join(possible)}")
    if options.vocab_split not in (None, "rows", "columns"):
        raise ConfigError(f"--vocab-split {options.vocab_split}: needs rows or columns")
    by_rows = params.splits_rows if options.vocab_split is None else options.vocab_split == "rows"
    return MetaLayout(params, count, by_rows)


def _dtype(weights: WeightFiles, spec: ModelSpec, *, mixed: bool) -> torch.dtype:
    """Of the first tensor; of all unless they may be mixed."""
    first = next(iter(spec.weight_shapes))
    for name in spec.weight_shapes:
        if weights.dtypes[name] not in DTYPES:
            needed = f"is {weights.dtypes[name]}, needs {', '.join(DTYPES)}"
            raise CheckpointError(f"{weights.where(name)} {needed}; use a model that is not quantised")
        if weights.dtypes[name] != weights.dtypes[first] and not mixed:
            other = f"is {weights.dtypes[name]}, {first} is {weights.dtypes[first]}"
            raise CheckpointError(f"{weights.where(name)} {other}; --dtype makes them one")
    return DTYPES[weights.dtypes[first]]


def _compare(
    source: MetaWeights | WeightFiles, result: MetaWeights | WeightFiles, spec: ModelSpec, dtype: torch.dtype
) -> None:
    """Every tensor of the result, read from the disk, is the source's and finite."""
    for name, shape in spec.weight_shapes.items():
        if (result.shapes[name], result.dtypes[name]) != (shape, _name(dtype)):
            raise _not_as_written(name)
        for rows in blocks(shape, dtype, head_dim=spec.head_dim):
            wanted = source.read(name, dtype, rows=rows)
            if not is_finite(wanted):
                raise CheckpointError(
                    f"{source.where(name)} holds NaN or Inf as {_name(dtype)}; use weights without, "
                    "or a --dtype that holds them"
                )
            if not torch.equal(wanted, result.read(name, dtype, rows=rows)):
                raise _not_as_written(name)


def _not_as_written(name: str) -> CheckpointError:
    return CheckpointError(f"{name}: is not what was written; the disk or memory is at fault, convert again")


def _difference(source: torch.Tensor, result: torch.Tensor) -> float:
    difference = float((source - result).abs().max())
    allowed = MAX_LOGIT_DIFFERENCE * max(1.0, float(source.abs().max()))
    if not difference <= allowed:  # so that NaN is none
        raise CheckpointError(
            f"logits of source and result differ by {difference:.2g}, allowed are {allowed:.2g}; "
            "this is a fault of the conversion, report it with params.json or config.json"
        )
    return difference


def _copy_tokenizer(source: Path, target: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Copy what is there; what to say of it."""
    copied = [name for name in names if (source / name).is_file()]
    for name in copied:
        shutil.copyfile(source / name, target / name)
    notes = [f"tokenizer: {', '.join(copied) or 'nothing'} copied from {source}"]
    if missing := [name for name in names[:1] if name not in copied]:
        notes.append(f"tokenizer: no {' and no '.join(missing)} there; --tokenizer names a folder that has it")
    return tuple(notes)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
