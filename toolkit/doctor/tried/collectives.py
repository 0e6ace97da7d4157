"""Adds up numbers over real processes, by gloo on processors or by NCCL on GPUs.

`python -m toolkit.doctor.tried.collectives FILE gloo` is two ranks; `... FILE nccl` is the one that RANK says, of
WORLD_SIZE that meet at MASTER_PORT.
"""

import importlib
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from toolkit.doctor.tried.teller import Teller, words_of
from toolkit.errors import BROKEN_LIBRARY
from toolkit.specs.machine import local_sockets

_RANKS = 2
_TIMEOUT = timedelta(seconds=10)
"""Of gloo's ranks for each other; both have imported torch before they begin."""
_NCCL_TIMEOUT = timedelta(seconds=60)
"""Of NCCL's: they import torch and make a context on their GPUs first."""
_NUMBERS = {"gloo": 2**18, "nccl": 2**24}
"""Of a tensor in fp32: 1 MiB, 64 MiB."""
_REPEATS = 5


def main(arguments: Sequence[str]) -> None:
    """Be both ranks of gloo, or one of NCCL."""
    teller = Teller(Path(arguments[0]))
    teller.begin("import torch")
    torch = importlib.import_module("torch")
    if arguments[1] == "nccl":
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        _add_up(torch, teller, f"nccl {rank}", place=(rank, world_size, int(os.environ["MASTER_PORT"])))
    else:
        _both_ranks(torch, teller)
    teller.end()


def _both_ranks(torch: Any, teller: Teller) -> None:
    """gloo over the loopback, where `toolkit launch` has it; then where the host's name leads, as others have it."""
    loopback = local_sockets().get("GLOO_SOCKET_IFNAME")
    given = os.environ.get("GLOO_SOCKET_IFNAME")
    routes = {"given": given} if given else {"loopback": loopback, "host": None}
    kinds = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if "fork" in kinds and sys.platform == "linux" else "spawn")
    for route, interface in routes.items():
        os.environ.pop("GLOO_SOCKET_IFNAME", None)
        if interface is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
        port = free_port()
        teller.begin(f"gloo {route}")
        reached = [context.Event() for _ in range(_RANKS)]
        ranks = [
            context.Process(target=_gloo_rank, args=(teller, route, (rank, _RANKS, port), reached[rank]), daemon=True)
            for rank in range(_RANKS)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(2 * _TIMEOUT.total_seconds())
        teller.tell(f"gloo {route} exits", [process.exitcode for process in ranks])  # None: it hangs
        if not all(done.is_set() for done in reached):
            return  # another route would say the same, half a minute later


def _gloo_rank(teller: Teller, route: str, place: tuple[int, int, int], reached: Any) -> None:
    # Imported in the process that this one was forked from.
    torch = importlib.import_module("torch")
    if _add_up(torch, teller, f"gloo {route} {place[0]}", place=place):
        reached.set()


def _add_up(torch: Any, teller: Teller, topic: str, *, place: tuple[int, int, int]) -> bool:
    """Every rank brings its number plus one; all must have the sum. Whether this one came to it.

    Args:
        torch: the library.
        teller: told seconds and the sum, or the error, under the topic.
        topic: backend, and what tells this rank from others.
        place: rank, number of ranks, the port at which they meet.
    """
    rank, world_size, port = place
    backend = topic.split()[0]
    teller.begin(topic)
    try:
        device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
        if backend == "nccl":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group(
            backend,
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=world_size,
            timeout=_NCCL_TIMEOUT if backend == "nccl" else _TIMEOUT,
            device_id=device if backend == "nccl" else None,
        )
        numbers = torch.full((_NUMBERS[backend],), rank + 1.0, device=device)
        torch.distributed.all_reduce(numbers)
        total = numbers.max().item()
        began = time.perf_counter()
        for _ in range(_REPEATS):
            torch.distributed.all_reduce(numbers)
        numbers.max().item()  # waits for the GPU
        seconds = (time.perf_counter() - began) / _REPEATS
        told = {"sum": total, "wanted": world_size * (world_size + 1) / 2, "seconds": seconds}
        teller.tell(topic, told | {"bytes": 4 * _NUMBERS[backend], "ranks": world_size})
        torch.distributed.destroy_process_group()
    except BROKEN_LIBRARY as error:
        teller.tell(topic, {"error": words_of(error)})
        return False
    return True


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main(sys.argv[1:])
