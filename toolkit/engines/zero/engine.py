"""The ZeRO engine: accelerate prepares DeepSpeed, we own the loss, the batch arithmetic and the learning rate."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed import zero
from torch.nn.functional import cross_entropy, pad

from toolkit.engines.base import Batch, StepResult
from toolkit.engines.zero import processes
from toolkit.engines.zero.config import load_ds_config
from toolkit.engines.zero.optimizer import build_adamw, forget_dummy_step
from toolkit.engines.zero.tensor import check_cut, gathered
from toolkit.errors import EngineError
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe


class ZeroEngine:
    """`engines.base.Engine` on DeepSpeed ZeRO 0-3; fp32, bf16 or fp16; optimizer and weights optionally on the host."""

    def __init__(self, plan: Plan, recipe: Recipe, *, model: Any, folder: RunFolder) -> None:
        config = load_ds_config(folder, plan)
        accelerator = processes.start(config, plan)
        self.rank: int = accelerator.process_index
        self.world_size: int = accelerator.num_processes
        self._tp = plan.strategy.layout.tp
        # DeepSpeed numbers ranks with tensor parallelism innermost: [0 .. tp - 1] hold the first replica.
        self.data_rank = self.rank // self._tp
        self.device: torch.device = accelerator.device
        self._stage = config.zero_stage
        self._grad_accum = plan.strategy.grad_accum
        self._scales_loss = config.precision == "fp16"

        if self._stage == 3:
            # One weight at a time: DeepSpeed would first move the whole model to the device, then partition it there.
            zero.Init(module=model, config_dict_or_path=config.content)
        optimizer, chosen = build_adamw(
            model.parameters(), recipe.optimizer, device=self.device, offload=config.offload != "none"
        )
        trainable = _num_trainable(model)
        self._engine: Any = processes.prepare(accelerator, model, optimizer, config)
        if self._stage == 0 and config.precision != "fp32":
            forget_dummy_step(optimizer)
        if (left := _num_trainable(self._engine.module)) != trainable:
            # Some layouts of DeepSpeed replace layers, and adapters inside them vanish without a word.
            raise EngineError(f"DeepSpeed {deepspeed.__version__} left {left} of {trainable} tensors to train")
        check_cut(self._engine.module, plan)
        self.notes = (chosen, *config.notes)

    def train_step(self, micro_batches: Sequence[Batch], *, learning_rate: float) -> StepResult:
        """One optimizer step; the loss is the mean over the supervised tokens of the whole global batch."""
        engine = self._engine
        engine.train()
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate
        # Both sums over the ranks travel while this rank computes: the counts during the first forward pass, the loss
        # during the last backward pass. Waiting for them cost 3 % of a short step.
        counts, counted = self._sum_over_ranks(
            sum(map(_num_supervised, micro_batches)), sum(map(_num_tokens, micro_batches))
        )
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        norm = None
        for index, batch in enumerate(map(self._to_device, micro_batches)):
            loss = self._loss_sum(batch)
            loss_sum += loss.detach()
            if index == 0:
                counted.wait()
                # DeepSpeed divides by grad_accum in backward and averages the gradients over the ranks; both are
                # undone here, so that micro-batches and ranks with more supervised tokens weigh more, as in one batch.
                scale = (self._grad_accum * self.world_size / self._tp / counts[0].clamp(min=1)).float()
            if index == len(micro_batches) - 1:
                total, summed = self._sum_over_ranks(loss_sum)
            mean_share = loss * scale
            if self._stage == 0 and self._scales_loss:
                mean_share.register_hook(self._scaled_gradient)  # type: ignore[no-untyped-call]
            engine.backward(mean_share)
            if self._stage == 0 and engine.is_gradient_accumulation_boundary():
                norm = self._plain_grad_norm()
            engine.step()
        summed.wait()
        supervised, tokens = counts.tolist()
        return StepResult(
            loss=total.item() / max(supervised, 1.0),
            grad_norm=float(engine.get_global_grad_norm() if norm is None else norm),
            tokens=int(tokens),
            supervised_tokens=int(supervised),
            loss_scale=self._loss_scale(),
            skipped=bool(getattr(engine.optimizer, "overflow", False)),
        )

    @torch.no_grad()
    def eval_loss(self, batches: Sequence[Batch]) -> float:
        """Mean cross-entropy over all supervised tokens of all ranks' batches."""
        self._engine.eval()
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        count = 0
        for batch in batches:
            loss_sum += self._loss_sum(self._to_device(batch))
            count += _num_supervised(batch)
        totals, summed = self._sum_over_ranks(loss_sum, count)
        summed.wait()
        loss_total, supervised = totals.tolist()
        return float(loss_total / max(supervised, 1.0))

    @torch.no_grad()
    def generate(
        self, batches: Sequence[Batch], *, max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """Greedy answers to this rank's left-padded prompts; every rank needs the same number of batches."""
        self._engine.eval()
        answers: list[list[int]] = []
        for batch in map(self._to_device, batches):
            output = self._engine.module.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=max_new_tokens,
                eos_token_id=list(stop_token_ids),
                do_sample=False,
                temperature=None,
                top_p=None,
                use_cache=True,
                # Under ZeRO-3 every forward pass gathers weights: a rank that is done must go on until all are.
                synced_gpus=self._stage == 3,
            )
            answers += output[:, batch["input_ids"].shape[1] :].tolist()
        return answers

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in rank order."""
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def full_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole weights one by one on rank 0's CPU, in the precision of the forward pass."""
        if self._stage == 3:
            # A forward pass without a backward leaves prefetched weights in flight, which cannot be gathered again.
            self._engine.empty_partition_cache()
        for name, parameter in self._engine.module.named_parameters():
            with self._whole(parameter):
                if self.rank == 0:
                    yield name, parameter.detach().to("cpu", copy=True)

    def close(self) -> None:
        """Free DeepSpeed's buffers and leave the process group."""
        self._engine.destroy()
        dist.destroy_process_group()

    def _whole(self, parameter: torch.nn.Parameter) -> AbstractContextManager[None]:
        """All of a weight on every rank, for as long as the context lasts."""
        if self._stage == 3:
            return zero.GatheredParameters([parameter])  # type: ignore[no-any-return]
        return gathered(parameter) if self._tp > 1 else nullcontext()

    def _loss_sum(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy summed over the supervised tokens of one micro-batch, in fp32."""
        logits = self._engine(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
        # Labels move left, not the logits: slicing those would copy the largest tensor of the step.
        labels = pad(batch["labels"][:, 1:], (0, 1), value=-100)
        return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")

    def _plain_grad_norm(self) -> torch.Tensor:
        """Of ZeRO-0, whose optimizers do not know it (fp32) or know it before unscaling (fp16); summed in fp32."""
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
        norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms)) / self._loss_scale()
        return norm

    def _loss_scale(self) -> float:
        return float(self._engine.optimizer.loss_scale) if self._scales_loss else 1.0

    def _scaled_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """What must arrive at the loss in fp16.

        DeepSpeed's ZeRO-0 divides the gradients by a loss scale that its backward pass has not applied: at 65536, the
        default, clipping never acts and Adam's eps rules (DeepSpeed #8393). Set, not multiplied: right after a fix too.
        """
        return torch.full_like(gradient, self._loss_scale() / self._grad_accum)

    def _sum_over_ranks(self, *values: float | torch.Tensor) -> tuple[torch.Tensor, dist.Work]:
        """The sums as float64 [len(values)], exact for counts; they are there once the work has been waited for.

        Ranks of one tensor-parallel group see the same samples, so the first speaks for all of them.
        """
        total = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=self.device) for v in values])
        if self.rank % self._tp:
            total.zero_()
        return total, dist.all_reduce(total, async_op=True)

    def _to_device(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}


def _num_supervised(batch: Batch) -> int:
    return int((batch["labels"][:, 1:] != -100).sum())


def _num_tokens(batch: Batch) -> int:
    return int(batch["attention_mask"].sum())


def _num_trainable(model: torch.nn.Module) -> int:
    return sum(p.requires_grad for p in model.parameters())
