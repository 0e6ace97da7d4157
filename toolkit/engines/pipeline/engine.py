"""The pipeline engine: DeepSpeed runs 1F1B over the stages, we own the loss, the batches and the learning rate."""

import contextlib
import copy
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.pipe import PipelineModule

from toolkit.engines.base import Batch, Piece, States, StepResult
from toolkit.engines.common.busy import Busy
from toolkit.engines.common.groups import Group, as_many_everywhere, check_groups, parameter_groups, set_learning_rate
from toolkit.engines.common.labels import Supervised, next_tokens, supervised_in, supervised_tokens
from toolkit.engines.common.laps import Laps
from toolkit.engines.common.lost import check_nothing_lost, sizes_of, trained_sizes
from toolkit.engines.common.rows import noise_of, padded_on_the_left, positions_of
from toolkit.engines.common.sums import counts_of, gather_objects, sum_over_ranks
from toolkit.engines.common.tensors import digest_of
from toolkit.engines.ds import processes
from toolkit.engines.ds.alone import alone_in
from toolkit.engines.ds.chunked import chunked_loss_sum
from toolkit.engines.ds.config import load_ds_config
from toolkit.engines.ds.loss import loss_factor, loss_sum, rows_of
from toolkit.engines.ds.optimizer import build_optimizer
from toolkit.engines.ds.parts import Replicas
from toolkit.engines.ds.updates import Updates
from toolkit.engines.pipeline.collect import stage_parameters, stage_tensors, weights_of_all_stages
from toolkit.engines.pipeline.generate import StageGenerator
from toolkit.engines.pipeline.module import pipeline_module, topology_of
from toolkit.errors import EngineError
from toolkit.models.compiled import uncompiled
from toolkit.models.unloaded import UnloadedModel
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe


class PipelineEngine:
    """`engines.base.Engine` on DeepSpeed's pipeline: stages x replicas x tensor-parallel ranks, with ZeRO-1.

    ZeRO-0 would clip each stage by its own norm; ZeRO-2 and 3 do not go with accumulated gradients of a pipeline.
    """

    def __init__(self, plan: Plan, recipe: Recipe, *, model: UnloadedModel, folder: RunFolder) -> None:
        plan.check_recipe(recipe)
        plan.check_communication(recipe.communication)
        config = load_ds_config(folder, plan).with_recipe(recipe)
        check_groups(recipe.optimizer, model.module)
        self.device = processes.join(plan)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        strategy, layout = plan.strategy, plan.strategy.layout
        self._topology = topology_of(plan)
        place = self._topology.get_coord(self.rank)
        self.data_rank: int = place.data
        self.stage: int = place.pipe
        self._dp, self._alpha = layout.dp, recipe.neftune_alpha
        # Every stage and every tensor-parallel rank sees all samples of its replica.
        self._speaks = place.pipe == 0 and place.model == 0
        self._numbers = config.numbers
        self._scales_loss = config.numbers.precision == "fp16"
        self._loss_factor = torch.ones((), device=self.device)
        self._model, wanted = model, trained_sizes(model.module)
        self._chunked_loss = plan.workload.loss == "chunked"
        self._pipe = pipeline_module(
            model,
            topology=self._topology,
            stages=strategy.stages,
            loss=self._loss,
            alpha=recipe.neftune_alpha,
        )
        parts, name = _groups_of(model, self._pipe, recipe), recipe.workload.optimizer
        built = build_optimizer(parts, recipe.optimizer, name, device=self.device, offload=config.offload != "none")
        with contextlib.redirect_stdout(io.StringIO()):
            self._engine: Any = deepspeed.initialize(
                model=self._pipe, optimizer=built.optimizer, config=copy.deepcopy(config.content)
            )[0]
        alone = alone_in(self._pipe, together=layout.tp > 1)
        self._busy = Busy(self.device, alone=alone, optimizer=built.optimizer)
        self._tensors = stage_tensors(model.module, self._pipe, plan.model.weight_shapes)
        check_nothing_lost(wanted, sizes_of(self._tensors), library=processes.DEEPSPEED)
        self._updates = Updates(
            built,
            self._engine,
            self._tensors,
            replicas=Replicas(
                rank=self.data_rank,
                num_replicas=self._dp,
                divided=self._engine.optimizer.dp_process_group,
                sliced=self._pipe.mpu().get_slice_parallel_group() if layout.tp > 1 else None,
                device=self.device,
            ),
            clipping=recipe.clipping,
            norm=self._grad_norm,
        )
        told = f"pipeline: {' + '.join(map(str, strategy.stages))} layers, embedding with the first, head with the last"
        self.prepared = self._updates.prepared
        self.notes = (built.note, self.prepared.note, told, *config.notes)
        self._generator = StageGenerator(
            self._pipe,
            model.base.config.hidden_size,
            device=self.device,
            dtype=next(self._pipe.parameters()).dtype,
        )

    def train_step(
        self, micro_batches: Sequence[Batch], *, learning_rate: float, notice: bool = False, told: Sequence[float] = ()
    ) -> StepResult:
        """One optimizer step; the loss is the mean over the supervised tokens of the whole global batch."""
        engine, laps = self._engine, Laps(self.device)
        self._busy.begin()
        set_learning_rate(engine.optimizer.param_groups, learning_rate)
        counts, counted = sum_over_ranks(
            supervised_in(micro_batches),
            sum(int(batch["attention_mask"].sum()) for batch in micro_batches),
            speaks=self._speaks,
            device=self.device,
            notice=notice,
            told=told,
        )
        counted.wait()
        laps.mark("waiting")
        self._loss_factor = loss_factor(counts[0], averaged_over=len(micro_batches) * self._dp)
        loss = engine.train_batch(data_iter=self._pairs(micro_batches))
        laps.mark("pipeline")
        skipped = bool(getattr(engine.optimizer, "overflow", False))
        found = counts_of(counts, told)
        return StepResult(
            loss=loss.item(),
            grad_norm=self._grad_norm(),
            clipped_norm=self._updates.clipped_norm(skipped=skipped),
            tokens=int(found.tokens),
            supervised_tokens=int(found.supervised),
            loss_scale=float(engine.optimizer.loss_scale) if self._scales_loss else 1.0,
            skipped=skipped,
            static_scale=self._numbers.has_static_scale,
            noticed=found.notices > 0,
            phase_seconds=laps.seconds(),
            busy_seconds=self._busy.seconds(),
            heard=found.heard,
        )

    @torch.no_grad()
    def eval_loss(self, batches: Sequence[Batch]) -> float:
        """Mean cross-entropy over all supervised tokens of all ranks' batches."""
        counts, counted = sum_over_ranks(
            supervised_in(batches),
            speaks=self._speaks,
            device=self.device,
        )
        counted.wait()
        self._loss_factor = loss_factor(counts[0], averaged_over=len(batches) * self._dp)
        loss = self._engine.eval_batch(self._pairs(batches), num_micro_batches=len(batches))
        return float(loss.item())

    @torch.no_grad()
    def generate(
        self, batches: Sequence[Batch], *, max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """Greedy answers to this replica's left-padded prompts."""
        self._engine.eval()
        answers = []
        for batch in batches:
            with self._numbers.autocast(self.device), uncompiled():
                answers += self._generator.answer(batch, max_new_tokens=max_new_tokens, stops=stop_token_ids)
        return answers

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in rank order."""
        return gather_objects(value)

    def full_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole weights one by one on rank 0's CPU, in the precision of the forward pass."""
        return weights_of_all_stages(self._model.module, self._pipe, self._topology, device=self.device)

    def weights_digest(self) -> tuple[str, str] | None:
        """Of this stage's weights, which its replicas hold too."""
        return digest_of(self._tensors)

    def prepare_to_save(self) -> None:
        """There is nothing that the states do not hold."""

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
        return self._updates.load_states(read, num_updates=num_updates, counters=counters)

    def close(self) -> None:
        """Free DeepSpeed's buffers and leave the process group."""
        self._engine.destroy()
        dist.destroy_process_group()

    def _grad_norm(self) -> float:
        """Of all gradients of the step, before clipping."""
        return float(self._engine.optimizer._global_grad_norm)

    def _loss(self, hidden: torch.Tensor, supervised: Supervised) -> torch.Tensor:
        """One micro-batch's part of the mean over all supervised tokens."""
        # DeepSpeed hands on a plain pair.
        (rows, targets), head = supervised, self._model.base.lm_head
        hidden = rows_of(hidden, rows)
        with self._busy.forward() if self._topology.get_dim("model") == 1 else contextlib.nullcontext():
            if self._chunked_loss:
                return chunked_loss_sum(hidden, targets, head) * self._loss_factor
            # DeepSpeed has left its own by now.
            with self._numbers.autocast(self.device):
                logits: torch.Tensor = head(hidden)
            return loss_sum(logits, targets, head) * self._loss_factor

    def _pairs(self, batches: Sequence[Batch]) -> Iterator[tuple[tuple[torch.Tensor, ...], Supervised]]:
        """What DeepSpeed wants of a micro-batch: inputs of the first stage, what the last one's loss is of.

        Raises:
            EngineError: rows that are padded on the left; on every rank, before any of them waits for another.
        """
        if any(padded_on_the_left(batch["attention_mask"]) for batch in batches):
            raise EngineError("pipeline: a row is padded on the left; pad rows on the right, or use engine=zero")
        return iter([(self._inputs(batch), supervised_tokens(next_tokens(batch["labels"]))) for batch in batches])

    def _inputs(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Of the first stage: token ids, position ids and, where noise is asked for, what that follows from."""
        noise = None if self._alpha is None else noise_of(batch)
        return (batch["input_ids"], positions_of(batch), *(noise or ()))


def _groups_of(model: UnloadedModel, pipe: PipelineModule, recipe: Recipe) -> list[Group]:
    """As many on every stage."""
    named = stage_parameters(model.module, pipe)
    return as_many_everywhere(parameter_groups(named, recipe.optimizer, recipe.workload.optimizer))
