"""`toolkit export`: a Hugging Face folder, or adapters for peft, out of any checkpoint of a run."""

from pathlib import Path

from toolkit.checkpoints.export import Targets, export, export_adapter
from toolkit.checkpoints.reopen import SavedModel
from toolkit.checkpoints.store import Store
from toolkit.data.encode import SampleEncoder
from toolkit.data.template import choose_template
from toolkit.errors import CheckpointError
from toolkit.models.pretrained import load_tokenizer
from toolkit.run_folder import RunFolder


def export_checkpoint(run: Path, target: Path, *, step: int | None = None, adapter: bool = False) -> int:
    """Write the model of a checkpoint; one process does, whatever layout saved it.

    Args:
        run: the run folder.
        target: folder to make.
        step: of the checkpoint; the newest without it.
        adapter: the adapters alone instead of the whole model with the adapters merged.

    Returns:
        The step of the checkpoint.

    Raises:
        CheckpointError: there is no such checkpoint, it is not intact, or the folder is there or cannot be written.
    """
    store = Store(RunFolder(run).checkpoints)
    steps = store.steps()
    if not steps or (step is not None and step not in steps):
        known = f"there are {', '.join(map(str, sorted(steps)))}" if steps else "there is none"
        raise CheckpointError(f"{store.path}: no checkpoint{'' if step is None else f' of step {step}'}; {known}")
    if target.exists():
        raise CheckpointError(f"{target}: is there already; give another folder")
    saved = SavedModel(store.folder(steps[0] if step is None else step))
    plan, recipe = saved.plan, saved.recipe
    if adapter:
        if plan.workload.method == "full":
            raise CheckpointError(f"{run}: all weights were trained, there are no adapters; leave --adapter out")
        export_adapter(saved.adapters(), target, plan=plan, recipe=recipe)
        return saved.step
    tokenizer = load_tokenizer(recipe.model, plan.model, plan.workload.new_tokens)
    encoder = SampleEncoder(choose_template(recipe.require_data().template, tokenizer))
    tokenizer.chat_template = encoder.template.text
    stops = encoder.stop_token_ids()
    export(saved, Targets(target, None), plan=plan, recipe=recipe, tokenizer=tokenizer, stop_token_ids=stops)
    return saved.step
