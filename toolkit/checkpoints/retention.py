"""Which checkpoints stay."""

from collections.abc import Mapping

from toolkit.checkpoints.manifest import Manifest
from toolkit.specs.reliability import CheckpointConfig


def kept_steps(manifests: Mapping[int, Manifest], config: CheckpointConfig, *, published: int) -> set[int]:
    """Steps of the newest `keep_last`, of every `keep_every`-th, and of the best on held-out samples.

    The one whose weights are to be exported stays too: the newest knows it. Checkpoints above the newest were passed
    over when the run went on, as damaged: none stays in their place, and they lie there until they are made again.

    Args:
        manifests: of all checkpoints that look whole, by step.
        config: of the recipe.
        published: step of the newest, which was just saved.
    """
    behind = {step: manifest for step, manifest in manifests.items() if step <= published}
    kept = {published, *sorted(behind)[-config.keep_last :], *(manifests.keys() - behind.keys())}
    if config.keep_every is not None:
        kept |= {step for step in behind if step % config.keep_every == 0}
    best = behind[published].progress.held_out.best_step if published in behind else None
    if best is not None and best in behind:
        kept.add(best)
    measured = {step: loss for step, each in behind.items() if (loss := each.held_out_loss) is not None}
    if config.keep_best and measured:
        kept.add(min(measured, key=lambda step: (measured[step], step)))
    return kept
