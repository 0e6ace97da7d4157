"""Which tensors a run trains, and which words choose nothing."""

import pytest

from toolkit.errors import SpecError
from toolkit.specs.model import ModelSpec
from toolkit.specs.trained import trained_faults, trained_weights
from toolkit.specs.workload import Workload

UNTIED, TIED = ModelSpec.resolve("llama-3.1-8b"), ModelSpec.resolve("llama-3.2-1b")


def work(**more: object) -> Workload:
    return Workload.parse({"seq_len": 32, "global_batch": 4, **more}, source="test")


def test_everything_trains_unless_something_is_said() -> None:
    assert trained_weights(UNTIED, work()) == set(UNTIED.weight_shapes)
    assert trained_weights(UNTIED, work(method="lora")) == set()
    assert not [*trained_faults(UNTIED, work()), *trained_faults(UNTIED, work(method="qlora"))]


def test_freeze_wins_over_train_only() -> None:
    frozen = set(UNTIED.weight_shapes) - trained_weights(
        UNTIED, work(freeze=["model.layers.[0-9].*", "*embed_tokens*"])
    )
    assert len(frozen) == 10 * 9 + 1
    chosen = trained_weights(UNTIED, work(train_only=["model.layers.3?.*"], freeze=["*norm*"]))
    assert chosen == {
        f"model.layers.{layer}.{name}" for layer in (30, 31) for name in UNTIED.layer_shapes if "norm" not in name
    }


def test_a_tied_head_is_the_embedding() -> None:
    for name in ("embed_tokens", "lm_head"):
        assert trained_weights(TIED, work(method="lora", modules_to_save=[name])) == {"model.embed_tokens.weight"}
    assert trained_weights(UNTIED, work(method="lora", modules_to_save=["lm_head"])) == {"lm_head.weight"}


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        (
            UNTIED,
            {"freeze": ["model.layer.*"]},
            "freeze: `model.layer.*` matches no tensor of llama-3.1-8b; there are ",
        ),
        (UNTIED, {"train_only": ["*head", "lm_head*"]}, "train_only: `*head` matches no tensor"),
        (TIED, {"freeze": ["lm_head*"]}, "and 143 more; the head is the embedding's own matrix"),
        (UNTIED, {"freeze": ["*"]}, "freeze and train_only leave nothing to train; freeze less"),
        (TIED, {"method": "lora", "new_tokens": ["<a>"]}, "set modules_to_save to embed_tokens"),
    ],
)
def test_what_chooses_nothing_is_told(model: ModelSpec, given: dict[str, object], told: str) -> None:
    (found,) = trained_faults(model, work(**given))
    assert told in found


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save goes with adapters, method is full"),
        (
            {"method": "lora", "freeze": ["*norm*"]},
            "freeze and train_only choose weights of method=full",
        ),
        ({"method": "lora", "modules_to_save": ["norm"]}, "embed_tokens"),
    ],
)
def test_what_another_method_has_is_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        work(**given)
