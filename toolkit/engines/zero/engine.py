"""The ZeRO engine: accelerate prepares DeepSpeed, we own the loss, the batch arithmetic and the learning rate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import groups

from toolkit.engines.base import Batch, Piece, States, StepResult
from toolkit.engines.common.busy import Busy
from toolkit.engines.common.groups import check_groups, parameter_groups, set_learning_rate
from toolkit.engines.common.laps import Laps
from toolkit.engines.common.lost import check_nothing_lost, sizes_of, trained_sizes
from toolkit.engines.common.sums import counts_of, gather_objects, norm_of, sum_over_ranks
from toolkit.engines.common.tensors import digest_of, trained_tensors
from toolkit.engines.ds import processes
from toolkit.engines.ds.alone import alone_in
from toolkit.engines.ds.chunked import loss_for_logits
from toolkit.engines.ds.config import load_ds_config
from toolkit.engines.ds.loss import loss_factor, loss_sum, only_rows, scaled_gradient
from toolkit.engines.ds.optimizer import build_optimizer, forget_dummy_step
from toolkit.engines.ds.parts import Replicas
from toolkit.engines.ds.tensor import whole
from toolkit.engines.ds.updates import Updates
from toolkit.engines.zero.assemble import assemble
from toolkit.engines.zero.between import between_replicas, check_communication, rounds_notes
from toolkit.engines.zero.generate import answers_of
from toolkit.engines.zero.shares import Share, Shares
from toolkit.models.neftune import NoisyEmbedding
from toolkit.models.ulysses import keep_documents_apart
from toolkit.models.unloaded import UnloadedModel
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe

_FLASH = "flash_attention_2"


class ZeroEngine:
    """`engines.base.Engine` on DeepSpeed ZeRO 0-3, in any precision; optimizer and weights optionally on the host.

    A replica may be divided by tensor parallelism (AutoTP's layers) and by sequence parallelism (Ulysses).
    """

    stage = 0  # of a pipeline, the only one
    _norm: torch.Tensor | None = None

    def __init__(self, plan: Plan, recipe: Recipe, *, model: UnloadedModel, folder: RunFolder) -> None:
        config = load_ds_config(folder, plan).with_recipe(recipe)
        check_communication(recipe, plan, config)
        check_groups(recipe.optimizer, model.module)
        accelerator = processes.start(config, plan)
        self._swap_folder = config.swap_folder
        if self._swap_folder is not None:
            processes.make_swap_folder(self._swap_folder)
        self.rank: int = accelerator.process_index
        self.world_size: int = accelerator.num_processes
        layout = plan.strategy.layout
        self._tp = layout.tp
        # Tensor-parallel ranks are neighbours and compute the same, then come those that share a sequence.
        self.data_rank = self.rank // (layout.tp * layout.sp)
        self._shares = Shares(layout.sp, self.rank // self._tp % layout.sp, plan.workload.attention == _FLASH)
        self.device: torch.device = accelerator.device
        self._sum_over_ranks = partial(sum_over_ranks, speaks=self.rank % self._tp == 0, device=self.device)
        self._stage = config.zero_stage
        self._chunked_loss = plan.workload.loss == "chunked"
        self._grad_accum = plan.strategy.grad_accum
        self._numbers = config.numbers
        self._scales_loss = config.numbers.precision == "fp16"
        self._is_plain = self._stage == 0 and not config.numbers.rounds_weights
        wanted = trained_sizes(model.module)
        module = assemble(model, config, plan=plan)
        name = recipe.workload.optimizer
        groups_of_parameters = parameter_groups(module.named_parameters(), recipe.optimizer, name)
        built = build_optimizer(
            groups_of_parameters, recipe.optimizer, name, device=self.device, offload=config.offload != "none"
        )
        self._engine: Any = processes.prepare(accelerator, module, built.optimizer, config=config)
        if self._stage == 0 and config.numbers.rounds_weights:
            forget_dummy_step(built.optimizer)
        alone = alone_in(module, together=layout.tp > 1 or layout.sp > 1 or self._stage == 3)
        self._busy = Busy(self.device, alone=alone, optimizer=built.optimizer)
        self._model, self._base = model, model.base
        alpha = recipe.neftune_alpha
        self._noisy = None if alpha is None else NoisyEmbedding(self._base.model.embed_tokens, alpha)
        sliced = groups.get_tensor_model_parallel_group() if self._tp > 1 else None
        self._tensors = trained_tensors(self._engine.module.named_parameters(), plan.model.weight_shapes, group=sliced)
        check_nothing_lost(wanted, sizes_of(self._tensors), library=processes.DEEPSPEED)
        self._updates = Updates(
            built,
            self._engine,
            self._tensors,
            replicas=Replicas(
                rank=self.rank // self._tp,
                num_replicas=self.world_size // self._tp,
                divided=self._engine.optimizer.dp_process_group if self._stage else None,
                sliced=sliced,
                device=self.device,
            ),
            clipping=recipe.clipping,
            norm=self._grad_norm,
        )
        self._between = between_replicas(recipe.communication, self._updates)
        if self._between is not None:
            self._engine.enable_backward_allreduce = False
        self.prepared = self._updates.prepared
        self.notes = (built.note, self.prepared.note, *config.notes, *rounds_notes(recipe))

    def train_step(
        self, micro_batches: Sequence[Batch], *, learning_rate: float, notice: bool = False, told: Sequence[float] = ()
    ) -> StepResult:
        """One optimizer step; the loss is the mean over the supervised tokens of the whole global batch."""
        engine, laps = self._engine, Laps(self.device)
        self._busy.begin()
        engine.train()
        set_learning_rate(engine.optimizer.param_groups, learning_rate)
        # Both sums over the ranks travel while this rank computes: the counts during the first forward pass, the loss
        # during the last backward pass. Waiting for them cost 3 % of a short step.
        shares = [self._shares.of(batch) for batch in micro_batches]
        own = [sum(each) for each in zip(*((share.num_supervised, share.num_tokens) for share in shares), strict=True)]
        counts, counted = self._sum_over_ranks(*own, notice=notice, told=told)
        share_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._norm, skipped = None, False
        for index, share in enumerate(shares):
            loss = self._loss_sum(share)
            share_loss += loss.detach()
            laps.mark("forward")
            if index == 0:
                counted.wait()
                laps.mark("waiting")
                factor = self._loss_factor(counts[0], shares)
            if index == len(shares) - 1:
                total, summed = self._sum_over_ranks(share_loss)
            self._backward(loss * factor, is_last=index == len(shares) - 1)
            laps.mark("backward")
            if self._stage == 0 and engine.is_gradient_accumulation_boundary():
                self._norm = self._reduced_norm()
                laps.mark("optimizer" if self._between is None else "exchange")
                # ZeRO-0 in fp32 is the plain optimizer, which would put NaN into the weights.
                alone = self._is_plain or self._between is not None
                skipped = alone and not bool(torch.isfinite(self._norm))
            engine.zero_grad() if skipped else engine.step()
            laps.mark("optimizer")
        skipped = skipped or bool(getattr(engine.optimizer, "overflow", False))
        if self._between is not None:
            self._between.after_step(skipped=skipped)
            laps.mark("exchange")
        summed.wait()
        laps.mark("waiting")
        found = counts_of(counts, told)
        return StepResult(
            loss=total[0].item() / max(found.supervised, 1.0),
            grad_norm=self._grad_norm(),
            clipped_norm=self._updates.clipped_norm(skipped=skipped),
            tokens=int(found.tokens),
            supervised_tokens=int(found.supervised),
            loss_scale=self._loss_scale(),
            skipped=skipped,
            static_scale=self._numbers.has_static_scale,
            noticed=found.notices > 0,
            sent_bytes=None if self._between is None else self._between.take_sent_bytes(),
            phase_seconds=laps.seconds(),
            busy_seconds=self._busy.seconds(),
            heard=found.heard,
        )

    @torch.no_grad()
    def eval_loss(self, batches: Sequence[Batch]) -> float:
        """Mean cross-entropy over all supervised tokens of all ranks' batches."""
        self._settle()
        self._engine.eval()
        total, count = torch.zeros((), dtype=torch.float64, device=self.device), 0
        for share in map(self._shares.of, batches):
            total += self._loss_sum(share)
            count += share.num_supervised
        totals, summed = self._sum_over_ranks(total, count)
        summed.wait()
        return float(totals[0] / totals[1].clamp(min=1))

    def generate(
        self, batches: Sequence[Batch], *, max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """Greedy answers to this rank's left-padded prompts; every rank needs the same number of batches."""
        self._settle()
        self._engine.eval()
        with self._numbers.autocast(self.device):
            return answers_of(
                self._engine, self._base, batches, max_new_tokens=max_new_tokens, stop_token_ids=stop_token_ids
            )

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in rank order."""
        return gather_objects(value)

    def full_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole weights one by one on rank 0's CPU, in the precision of the forward pass."""
        self._settle()
        if self._stage == 3:
            # A forward pass without a backward leaves prefetched weights in flight, which cannot be gathered again.
            self._engine.empty_partition_cache()
        for name, parameter in self._engine.module.named_parameters():
            with whole(parameter, partitioned=self._stage == 3):
                if self.rank == 0:
                    yield name, self._model.whole(name, parameter)

    def weights_digest(self) -> tuple[str, str] | None:
        """Of the weights that each replica holds in whole."""
        self._settle()
        return None if self._stage == 3 else digest_of(self._tensors)

    def prepare_to_save(self) -> None:
        """Give all replicas the same states, and forget what was left out of earlier steps."""
        if self._between is not None:
            self._between.before_saving()

    def states(self) -> Iterator[tuple[Piece, States]]:
        """Every piece that this rank keeps."""
        return self._updates.states()

    def pieces(self) -> Iterator[Piece]:
        """Those of `states`."""
        return self._updates.pieces()

    def counters(self) -> dict[str, float]:
        """Of the dynamic loss scale, and of clipping."""
        return self._updates.counters()

    def load_states(
        self, read: Callable[[Piece], States], *, num_updates: int, counters: Mapping[str, float]
    ) -> tuple[str, ...]:
        """Fill optimizer and weights from outside."""
        told = self._updates.load_states(read, num_updates=num_updates, counters=counters)
        if self._between is not None:
            self._between.begin_anew(num_updates)
        return told

    def close(self) -> None:
        """Free DeepSpeed's buffers and leave the process group."""
        self._engine.destroy()
        if self._swap_folder is not None:
            processes.remove_swapped(self._swap_folder, self.rank)
        dist.destroy_process_group()

    def _loss_sum(self, share: Share) -> torch.Tensor:
        """Cross-entropy summed over the supervised tokens of this rank's share of a micro-batch, in fp32."""
        inputs = share.arguments(self.device)
        if self._shares.sp > 1:
            documents = None if share.documents is None else self._to_device(share.documents)
            keep_documents_apart(self._base, documents)
        head, (rows, targets) = self._base.lm_head, map(self._to_device, share.supervised)
        with ExitStack() as around:
            if self._noisy is not None:
                around.enter_context(self._noisy.adding(share.noise, share.part))
            around.enter_context(only_rows(head, rows))
            if self._chunked_loss:
                around.enter_context(loss_for_logits(head, targets))
            # With a chunked loss the loss itself.
            logits: torch.Tensor = self._engine(**inputs, use_cache=False).logits
        return logits if self._chunked_loss else loss_sum(logits, targets, head)

    def _backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """Of a micro-batch; this rank's last one of a step ends with the reduction, however many it has."""
        # DeepSpeed itself would count grad_accum of them: a slow replica may have fewer (decision 33).
        self._engine.set_gradient_accumulation_boundary(is_last)
        if self._stage == 0 and self._scales_loss:
            loss.register_hook(scaled_gradient(self._loss_scale() / self._grad_accum))  # type: ignore[no-untyped-call]
        self._engine.backward(loss)

    def _settle(self) -> None:
        """Give all replicas the same weights, if the recipe lets them differ."""
        if self._between is not None:
            self._between.settle()

    def _loss_factor(self, supervised: torch.Tensor, shares: Sequence[Share]) -> torch.Tensor:
        """Of the global batch, or of this rank's rows, where it takes steps of its own."""
        if self._between is not None and self._between.alone:
            own = torch.tensor(sum(share.num_supervised for share in shares), device=self.device)
            return loss_factor(own, averaged_over=self._grad_accum)
        return loss_factor(supervised, averaged_over=self._grad_accum * self.world_size // self._tp)

    def _grad_norm(self) -> float:
        """Of all gradients of the step, before clipping."""
        return float(self._engine.optimizer._global_grad_norm if self._norm is None else self._norm)

    def _reduced_norm(self) -> torch.Tensor:
        """Of ZeRO-0, whose optimizers do not know it (fp32) or know it before unscaling (fp16); summed in fp32.

        Its gradients are reduced here, where the recipe has a way of its own for that (never in fp16).
        """
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return norm_of(gradients) / self._loss_scale() if self._between is None else self._between.reduce(gradients)

    def _loss_scale(self) -> float:
        return float(self._engine.optimizer.loss_scale) if self._scales_loss else 1.0

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)
