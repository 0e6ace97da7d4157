"""Which checkpoints stay."""

from collections.abc import Mapping

from toolkit.checkpoints.manifest import Manifest
from toolkit.specs.reliability import CheckpointConfig


def kept_steps(manifests: Mapping[int, Manifest], config: CheckpointConfig) -> set[int]:
    """Steps of the newest `keep_last`, of every `keep_every`-th, and of the best on held-out samples.

    The one whose weights are to be exported stays too: the newest knows it.

    Args:
        manifests: of all intact checkpoints, by step.
        config: of the recipe.
    """
    kept = set(sorted(manifests)[-config.keep_last :])
    if config.keep_every is not None:
        kept |= {step for step in manifests if step % config.keep_every == 0}
    best = manifests[max(manifests)].progress.held_out.best_step if manifests else None
    if best is not None and best in manifests:
        kept.add(best)
    measured = {step: loss for step, each in manifests.items() if (loss := each.held_out_loss) is not None}
    if config.keep_best and measured:
        kept.add(min(measured, key=lambda step: (measured[step], step)))
    return kept
