"""`toolkit convert`: Meta's layout into a Hugging Face folder, or back."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli import options
from toolkit.errors import INSTALL_TRAINING, MachineError
from toolkit.units import human_count

app = typer.Typer()


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="Model folder: Meta's (params.json, consolidated.NN.pth) or Hugging Face's."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to make, in the other layout.")],
    shards: Annotated[int | None, typer.Option(help="Files to write in Meta's layout; default 1.")] = None,
    vocab_split: Annotated[
        str | None, typer.Option(help="How these divide the embedding: rows (Llama 3) or columns (before it).")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; default: the source's.")] = None,
    max_seq_len: Annotated[
        int | None, typer.Option(help="Longest sequence in tokens, for config.json; default: the release's.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer's files; default: SOURCE.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in DEST.")] = False,
) -> None:
    """Convert a model between Meta's layout and a Hugging Face folder, and check the result against the source."""
    if importlib.util.find_spec("torch") is None:
        raise MachineError(f"converting reads weights; {INSTALL_TRAINING}")
    from toolkit.checkpoints.convert import ConvertOptions, convert_model

    chosen = ConvertOptions(
        num_shards=shards,
        vocab_split=vocab_split,
        dtype=dtype,
        max_seq_len=max_seq_len,
        tokenizer=tokenizer,
        overwrite=overwrite,
    )
    done = convert_model(source, target, chosen)
    layout = "Meta's layout" if done.layout == "meta" else "a Hugging Face folder"
    files = "1 file" if done.num_files == 1 else f"{done.num_files} files"
    options.console.print(
        f"{human_count(done.spec.num_params)} parameters as {done.dtype} in {files}",
        f"checked: {len(done.spec.weight_shapes)} tensors, read again, are the source's; "
        f"logits of a probe differ by at most {done.logit_difference:.1e}",
        *done.notes,
        f"Written to {target}, {layout}.",
        sep="\n",
        soft_wrap=True,
    )
