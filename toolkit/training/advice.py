"""What is said of a slow rank, a slow link, stages that are not balanced: what was seen, what it costs, what to do."""

from collections.abc import Sequence

from toolkit.training.balancer import Dealt
from toolkit.training.split import Split
from toolkit.training.stragglers import Slow
from toolkit.units import human_seconds

_COMPUTES = (
    "look there for other processes, clocks that were lowered and heat (`toolkit doctor`), or leave the host out"
)
_WHAT_TO_DO = {
    "data": "its rows are read slowly: put them on a disk of that host, and look for other readers of this one",
    "optimizer": "its update is slow: with offload its host memory or disk, else as with a slow processor; "
    "`toolkit doctor` on that host looks",
    "other": "what it does between two steps is slow: the run's folder may be on a slow disk",
}
_COULD_HAVE_FEWER = "; or give it fewer micro-batches: monitoring.balance in the recipe"
_REPLICAS_TOLD = 8


def slow_words(slow: Slow, host: str, *, share: float, step: int, balance: bool | None = None) -> str:
    """A warning that names a rank.

    Args:
        slow: which, and by how much.
        host: of the rank.
        share: of a step's time that the others wait for it.
        step: after which it is said.
        balance: fewer micro-batches for a slow replica are had by the run, or could be; None where they cannot.
    """
    could = balance is False and slow.section not in _WHAT_TO_DO
    return (
        f"WARNING: step {step}: rank {slow.rank} on {host} is slow: {slow.section} takes it "
        f"{human_seconds(slow.seconds)} of a step{' of equal shares' if balance else ''}, "
        f"{human_seconds(slow.expected)} expected; all ranks wait for it, "
        f"{share:.0%} of the time; {_WHAT_TO_DO.get(slow.section, _COMPUTES)}{_COULD_HAVE_FEWER if could else ''}"
    )


def dealt_words(dealt: Dealt, names: Sequence[str], step: int) -> str:
    """Who has how many micro-batches from now on, and why.

    Args:
        dealt: the new shares.
        names: of the replicas.
        step: after which they hold.
    """
    changes = [
        f"{name} does {count} of a step's micro-batches, {before} until now, {human_seconds(each)} each"
        for name, count, before, each in zip(names, dealt.counts, dealt.before, dealt.each, strict=True)
        if count != before
    ]
    more = f"; and {len(changes) - _REPLICAS_TOLD} more" if len(changes) > _REPLICAS_TOLD else ""
    return (
        f"step {step}: shares in proportion to speed: {'; '.join(changes[:_REPLICAS_TOLD])}{more}; a step should take "
        f"{dealt.gain:.0%} less"
    )


def over_words(rank: int, host: str, step: int) -> str:
    """Its end."""
    return f"step {step}: rank {rank} on {host} is no longer slow"


def link_words(hosts: Sequence[str], *, seconds: float, share: float, step: int) -> str:
    """A warning that names a link."""
    whose = f"the network of {hosts[0]}" if len(hosts) == 1 else f"the network between {' and '.join(hosts)}"
    return (
        f"WARNING: step {step}: {whose} is slow: ranks wait for it {human_seconds(seconds)} of a step, {share:.0%}; "
        "look at its cable, its switch and other traffic, or send less: communication.compression in the recipe"
    )


def split_words(seconds: Sequence[float], planned: Sequence[int], found: Split) -> str:
    """Advice, which the next plan takes."""
    measured = ", ".join(human_seconds(one) for one in seconds)
    layers, better = (",".join(map(str, one)) for one in (planned, found.stages))
    return (
        f"stages of {layers} layers compute {measured} of a step; `toolkit plan --stages {better}` would make a step "
        f"{found.gain:.0%} shorter"
    )
