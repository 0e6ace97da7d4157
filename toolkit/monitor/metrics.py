"""A run's state for Prometheus, read from its files when it is asked for: the ranks do nothing for it."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from toolkit.errors import MachineError
from toolkit.monitor.state import SECTIONS, RankState, RunState, Watched

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError:
    Collector = object  # type: ignore[misc, assignment]
    CollectorRegistry = None  # type: ignore[misc, assignment]

ADDRESS = "127.0.0.1"
"""Where nothing else is said: a run's numbers are nobody else's."""

_OF_STEP = {
    "loss": ("toolkit_loss", "Mean cross-entropy of the last step, nats"),
    "lr": ("toolkit_learning_rate", "Learning rate of the last step"),
    "grad_norm": ("toolkit_gradient_norm", "Norm of the last step's gradients before clipping"),
    "tokens_per_second": ("toolkit_tokens_per_second", "Tokens of the last step over its time, all ranks"),
    "step_seconds": ("toolkit_step_seconds", "Wall time of the last step"),
    "sent_bytes": (
        "toolkit_sent_bytes",
        "Sent by each rank in the last step, where the recipe's communication says how",
    ),
}
_OF_RUN = {
    "steps": ("toolkit_step", "Optimizer steps done"),
    "num_steps": ("toolkit_steps_planned", "Optimizer steps of the whole run"),
    "checkpoint": ("toolkit_checkpoint_step", "Step of the last checkpoint"),
}
_COUNTED = {
    "checkpoint": ("toolkit_checkpoints", "Checkpoints begun"),
    "checkpoint failed": ("toolkit_checkpoints_failed", "Checkpoints that could not be written"),
    "restarted": ("toolkit_restarts", "Times that dead ranks were started again"),
    "bad step": ("toolkit_bad_steps", "Steps whose loss or gradients were not finite, or jumped"),
    "straggler": ("toolkit_stragglers", "Times that a rank or link was called slow"),
}


class RunCollector(Collector):
    """What one scrape finds.

    Args:
        watched: the run.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def collect(self) -> Iterable["Metric"]:
        """All families, of the run as it is now."""
        state = self._watched.look()
        yield from _of_run(state)
        yield from _of_ranks(state)


def _of_run(state: RunState) -> Iterator["Metric"]:
    run = {"run": state.name}
    up = GaugeMetricFamily("toolkit_up", "1 while ranks give signs of life", labels=list(run))
    up.add_metric([state.name], float(state.life in ("training", "busy")))
    yield up
    values: list[tuple[tuple[str, str], Any]] = [(told, getattr(state, name)) for name, told in _OF_RUN.items()]
    values += [(told, state.last.get(name)) for name, told in _OF_STEP.items()]
    for (name, meaning), value in values:
        if value is not None:
            gauge = GaugeMetricFamily(name, meaning, labels=list(run))
            gauge.add_metric([state.name], float(value))
            yield gauge
    counts = [(told, float(state.counts.get(name, 0))) for name, told in _COUNTED.items()]
    for (name, meaning), count in [*counts, (("toolkit_tokens", "Trained on, without padding"), state.tokens)]:
        counter = CounterMetricFamily(name, meaning, labels=list(run))
        counter.add_metric([state.name], count)
        yield counter


def _of_ranks(state: RunState) -> Iterator["Metric"]:
    for name, meaning, value in (
        ("step_seconds", "Of a step, mean over the last few", lambda rank: rank.seconds.get("step", 0.0)),
        ("waiting_seconds", "Of a step, for other ranks and the network", lambda rank: rank.waiting),
        ("link_wait_seconds", "Of a step, for the network to other hosts", lambda rank: rank.seconds.get("link", 0.0)),
        ("link_bytes", "Sent to other hosts in a step", lambda rank: rank.link_bytes),
        ("memory_bytes", "Peak: of the allocator on a GPU, of the process on a CPU", lambda rank: rank.memory_bytes),
        ("heartbeat_age_seconds", "Since the last sign of life", lambda rank: rank.age),
        ("micro_batches", "Of a step, where shares go by speed", lambda rank: float(rank.micro_batches) or None),
        ("slow", "1 while the rank is called slow", lambda rank: float(bool(rank.slow))),
    ):
        gauge = GaugeMetricFamily(f"toolkit_rank_{name}", meaning, labels=["run", "rank", "host"])
        for rank in state.ranks:
            if (found := value(rank)) is not None:
                gauge.add_metric(_labels(state, rank), found)
        yield gauge
    busy = GaugeMetricFamily(
        "toolkit_rank_busy_seconds",
        "Of a step, in which the rank waited for nobody",
        labels=["run", "rank", "host", "section"],
    )
    for rank in state.ranks:
        for section in SECTIONS:
            busy.add_metric([*_labels(state, rank), section], rank.seconds.get(section, 0.0))
    yield busy


def _labels(state: RunState, rank: RankState) -> list[str]:
    return [state.name, str(rank.rank), rank.host]


@contextlib.contextmanager
def served(run: Path, port: int | None, *, address: str = ADDRESS) -> Iterator[int | None]:
    """Answer scrapes of `http://address:port/metrics` for as long as the context lasts; yields the port.

    Args:
        run: folder of the run.
        port: 0 takes a free one; None serves nothing.
        address: of this machine, on which to listen.

    Raises:
        MachineError: the port is in use or may not be taken, the address is none of this machine, or prometheus_client
            is not installed.
    """
    if port is None:
        yield None
        return
    if CollectorRegistry is None:
        raise MachineError(
            "metrics need prometheus_client; pip install -c constraints.txt -e '.[monitor]' in the toolkit's own folder"
        )
    registry = CollectorRegistry()
    registry.register(RunCollector(Watched(run)))
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise MachineError(
            f"metrics cannot be served on {address}:{port} ({error.strerror or error}); give another port, or 0 for "
            "any that is free"
        ) from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
