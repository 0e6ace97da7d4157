"""Whether processes can add up numbers together: what the tries told, judged."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolkit.doctor.explained import explain
from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.told import Told

_ROUTES = {
    "loopback": "over the loopback, as `toolkit launch` has it on one node",
    "given": "over GLOO_SOCKET_IFNAME, as it is set",
    "host": "over the address of this host's name, as other launchers and runs on several nodes have it",
}


def examine_collectives(gloo: Told | None, nccl: Sequence[Told], torch: Mapping[str, Any]) -> Section:
    """The probe.

    Args:
        gloo: what two ranks on processors told; None where they were not started.
        nccl: what each rank on a GPU told.
        torch: what torch told.
    """
    facts: dict[str, Any] = {"gloo": {}, "nccl": None}
    findings: list[Finding] = []
    if gloo is not None and torch.get("gloo", True):
        for route in _ROUTES:
            if any(topic.startswith(f"gloo {route} ") for topic in gloo.answers):
                ranks = [gloo.section(f"gloo {route} {rank}") for rank in (0, 1)]
                error = failure_of(ranks, gloo.answers.get(f"gloo {route} exits"))
                facts["gloo"][route] = ranks[0] if error is None else {"error": error}
                findings += _judge_gloo(route, error)
        if not facts["gloo"] and gloo.end is not None:
            told, effect = f"gloo was not tried: {gloo.end}", "whether ranks find each other is not known"
            findings.append(Finding("warning", "not-tried", told, effect, "see the other findings"))
    elif torch and not torch.get("gloo"):
        told, effect = "torch was built without gloo", "ranks on processors cannot be joined"
        findings.append(Finding("error", "no-gloo", told, effect, "install torch from its own wheels"))
    if torch.get("devices") and not torch.get("nccl") and not torch.get("hip"):
        told, effect = "torch was built without NCCL", "ranks on GPUs cannot be joined"
        findings.append(Finding("error", "no-nccl", told, effect, "install torch from its own wheels, on Linux"))
    if nccl:
        ranks = [
            one.section(f"nccl {rank}") or {"error": one.end or "it said nothing"} for rank, one in enumerate(nccl)
        ]
        error = failure_of(ranks, None)
        facts["nccl"] = _rates(ranks[0]) if error is None else {"error": error, "ranks": len(ranks)}
        findings += _judge_nccl(error, len(ranks))
    return Section("collectives", facts, tuple(findings))


def failure_of(ranks: Sequence[Mapping[str, Any]], exits: Any) -> str | None:
    """Why a sum did not come about; None where every rank has it.

    Args:
        ranks: what each told; empty of one that said nothing.
        exits: exit code of each, None of one that hangs, where they are known.
    """
    for rank, told in enumerate(ranks):
        if told.get("error"):
            return f"rank {rank}: {told['error']}"
    for rank, told in enumerate(ranks):
        status = exits[rank] if isinstance(exits, list) and rank < len(exits) else 0
        if not told:
            return f"rank {rank} hangs" if status is None else f"rank {rank} ended with exit code {status}"
        if told["sum"] != told["wanted"]:
            return f"rank {rank} has {told['sum']:g} where the sum is {told['wanted']:g}"
    return None


def _judge_gloo(route: str, error: str | None) -> Iterator[Finding]:
    if error is None:
        return
    known = explain(error)
    blocks = route != "host"
    yield Finding(
        "error" if blocks else "warning",
        "gloo-fails" if blocks else "gloo-host-fails",
        f"two gloo processes {_ROUTES[route]}, do not add up: {error}" + (f" ({known.meaning})" if known else ""),
        "no run starts on processors"
        if blocks
        else "launchers that name no interface fail or hang; `toolkit launch` on one node is not concerned",
        (known.remedy if known else "") or "give the host's name a line in /etc/hosts, or name an interface",
        (known.command if known else "") or "export GLOO_SOCKET_IFNAME=lo",
    )


def _judge_nccl(error: str | None, num_ranks: int) -> Iterator[Finding]:
    if error is None:
        return
    known = explain(error)
    yield Finding(
        "error",
        "nccl-fails",
        f"{num_ranks} NCCL processes, one per GPU, do not add up: {error}" + (f" ({known.meaning})" if known else ""),
        "no run starts on these GPUs",
        (known.remedy if known else "")
        or "run again with NCCL_DEBUG=INFO; if it hangs, with NCCL_P2P_DISABLE=1: then "
        "the IOMMU is in the way of P2P (ACS)",
        (known.command if known else "") or "NCCL_DEBUG=INFO toolkit doctor",
    )


def _rates(told: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of one sum, and bytes/s that each GPU sends meanwhile, as nccl-tests count them (busbw)."""
    ranks, seconds = told["ranks"], told["seconds"]
    rate = 2 * (ranks - 1) / ranks * told["bytes"] / seconds if seconds > 0 else None
    return {"ranks": ranks, "seconds": seconds, "bytes": told["bytes"], "bus_bandwidth": rate if ranks > 1 else None}
