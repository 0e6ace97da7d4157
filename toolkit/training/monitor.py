"""What ranks tell each other of their time: written down, and judged, so that the one that all wait for is named."""

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from toolkit.engines.base import Engine, StepResult
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe
from toolkit.training.advice import dealt_words, link_words, over_words, slow_words, split_words
from toolkit.training.balancer import Balancer
from toolkit.training.lines import add_lines, kept_lines
from toolkit.training.links import Links
from toolkit.training.memory import peak_memory
from toolkit.training.own_time import COLUMNS, SECTIONS, OwnTime
from toolkit.training.slow_links import LinkFinder, pairs_of, slow_hosts
from toolkit.training.split import better_split
from toolkit.training.stragglers import Finder
from toolkit.training.telemetry import Telemetry

_SPLIT_AFTER = 6
"""Windows over which stages are measured before another split is advised."""
_LEAST_GAIN = 0.05
_RANKS_PER_LINE = 64
"""With more ranks the file gets a line less often, so that it grows by no more in a step."""

Columns = Mapping[str, list[float]]
"""One window: each of `COLUMNS`, by rank."""


class Monitor:
    """One rank's clock, and its ears; the first rank writes and speaks. Made by all ranks together.

    Args:
        folder: of the run.
        engine: whose ranks they are.
        telemetry: for events and warnings.
        plan: has the layers of the stages.
        recipe: says when a rank is slow, and whether its replica then gets fewer micro-batches.
        done: steps that are behind the run.
    """

    def __init__(
        self,
        folder: RunFolder,
        engine: Engine,
        telemetry: Telemetry,
        *,
        plan: Plan,
        recipe: Recipe,
        done: int,
    ) -> None:
        config = recipe.monitoring
        self._engine, self._telemetry, self._enabled = engine, telemetry, config.enabled
        self._path, self._strategy = folder.ranks, plan.strategy
        self.time = OwnTime(config.every_steps)
        self._host = socket.gethostname()
        own = self._host, engine.stage, engine.data_rank
        who: list[tuple[str, int, int]] = engine.gather(own) if config.enabled else []
        self._hosts, self._stages = [host for host, _, _ in who], [stage for _, stage, _ in who]
        self._replicas = [replica for _, _, replica in who]
        self._balancer = Balancer(self._replicas, micro_batches=plan.strategy.grad_accum) if config.balance else None
        could = not plan.balance_faults(recipe, zero_stage=plan.strategy.zero_stage)
        self._balances = config.balance if could else None
        if len(set(self._hosts)) > 1:
            self.time.links = Links()
        self._finder = Finder(self._stages, share=config.slow_share)
        self._link_finder = LinkFinder(self._hosts, share=config.slow_share)
        self._windows: list[Columns] = []
        self._heard = 0
        self._begin_file(done)

    @property
    def counts(self) -> tuple[int, ...] | None:
        """Micro-batches of each replica in the next step; None where all have equal shares."""
        return None if self._balancer is None else self._balancer.counts

    def tells(self) -> tuple[float, ...]:
        """What this rank tells with the step that is about to be done."""
        if not self._enabled or not self.time.is_due:
            return ()
        return self.time.tell(float(next(iter(peak_memory(self._engine.device).values()))))

    def after_step(self, step: int, result: StepResult) -> None:
        """The step is done, and written down.

        Args:
            step: counted from 1.
            result: of it.
        """
        self.time.end(result)
        if result.heard:
            by_column = map(list, zip(*result.heard, strict=True))
            self._hear(step, dict(zip(COLUMNS, by_column, strict=True)))

    def go_back(self, step: int) -> None:
        """Forget the steps after that one: they are about to be done again."""
        self.time.forget()
        self._begin_file(step)

    def _begin_file(self, step: int) -> None:
        if self._enabled and self._engine.rank == 0:
            kept_lines(self._path, step)
            add_lines(self._path, [{"step": step, "hosts": self._hosts, "stages": self._stages}])

    def _hear(self, step: int, heard: Columns) -> None:
        step_seconds = max(heard["step_seconds"])
        links = heard["link_seconds"], heard["link_bytes"]
        if self._link_finder.hear(*links, step_seconds=step_seconds):
            self._name_link(step, heard, step_seconds)  # all ranks have heard the same, and come here together
        seconds = {name: heard[f"{name}_seconds"] for name in SECTIONS}
        if self._engine.rank == 0:
            self._write(step, heard)
            self._name_ranks(step, seconds, step_seconds)
            self._consider_split(step, heard)
        self._balance(step, seconds, step_seconds)

    def _name_ranks(self, step: int, seconds: Columns, step_seconds: float) -> None:
        shares = None
        if self._balancer is not None:
            shares = [count / self._strategy.grad_accum for count in self._balancer.of_ranks()]
        changes = self._finder.hear(seconds, step_seconds=step_seconds, shares=shares)
        for slow in changes.slow:
            host, share = self._hosts[slow.rank], slow.lost / step_seconds
            self._telemetry.event("straggler", step=step, host=host, share=share, **slow._asdict())
            self._telemetry.say(slow_words(slow, host, share=share, step=step, balance=self._balances))
        for rank in changes.over:
            self._telemetry.event("straggler over", step=step, rank=rank, host=self._hosts[rank])
            self._telemetry.say(over_words(rank, self._hosts[rank], step))

    def _balance(self, step: int, seconds: Columns, step_seconds: float) -> None:
        """Where it pays, other shares from the next step on: all ranks have heard the same, and decide alike."""
        dealt = None if self._balancer is None else self._balancer.hear(seconds, step_seconds=step_seconds)
        if dealt is None:
            return
        self.time.forget()  # a window is of steps with the same shares
        firsts = [self._replicas.index(replica) for replica in range(len(dealt.counts))]
        names = [f"rank {rank} on {self._hosts[rank]}" for rank in firsts]
        facts = {"micro_batches": list(dealt.counts), "before": list(dealt.before), "gain": dealt.gain}
        self._telemetry.event("shares", step=step, **facts, micro_batch_seconds=list(dealt.each))
        self._telemetry.say(dealt_words(dealt, names, step))

    def _write(self, step: int, heard: Columns) -> None:
        """What was heard with a step is of those before it."""
        self._heard += 1
        if self._heard % -(-len(self._hosts) // _RANKS_PER_LINE) == 0:
            numbers: dict[str, Any] = {name: [round(value, 6) for value in heard[name]] for name in COLUMNS}
            if self._balancer is not None:
                numbers["micro_batches"] = self._balancer.of_ranks()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step - 1, "time": round(time.time(), 3), **numbers}) + "\n")

    def _name_link(self, step: int, heard: Columns, step_seconds: float) -> None:
        details = self._engine.gather((self._host, self._addresses, self.time.sents))
        hosts = slow_hosts(pairs_of(details))
        seconds = max(heard["link_seconds"])
        share = min(seconds / step_seconds, 1.0)
        ranks = [rank for rank, host in enumerate(self._hosts) if host in hosts]
        facts = {"host": " and ".join(hosts), "rank": ranks[0] if ranks else 0, "seconds": seconds, "share": share}
        self._telemetry.event("straggler", step=step, section="link", **facts)
        self._telemetry.say(link_words(hosts, seconds=seconds, share=share, step=step))

    @property
    def _addresses(self) -> tuple[str, ...]:
        return () if self.time.links is None else self.time.links.addresses

    def _consider_split(self, step: int, heard: Columns) -> None:
        """Once, when the stages have been measured for a while."""
        planned = self._strategy.stages
        if len(planned) < 2 or len(set(self._stages)) != len(planned) or len(self._windows) == _SPLIT_AFTER:
            return
        self._windows.append(heard)
        if len(self._windows) < _SPLIT_AFTER:
            return
        totals = [0.0] * len(planned)
        for window in self._windows:
            for rank, stage in enumerate(self._stages):
                computed = sum(window[f"{name}_seconds"][rank] for name in ("forward", "backward", "passes"))
                totals[stage] += computed / self._stages.count(stage) / _SPLIT_AFTER
        found = better_split(totals, planned, micro_batches=self._strategy.grad_accum)
        if found is not None and found.gain >= _LEAST_GAIN:
            facts = {"stages": list(found.stages), "gain": found.gain, "stage_seconds": totals}
            self._telemetry.event("stage split", step=step, planned=list(planned), **facts)
            self._telemetry.say(split_words(totals, planned, found))
