"""Names and addresses of this host, as ranks use them to find each other."""

import contextlib
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from toolkit.doctor.finding import Finding, Section
from toolkit.doctor.machine import Machine

_LOOKUP_SECONDS = 2.0
_SLOW_SECONDS = 1.0
_PORT = 29500
"""accelerate's and torchrun's for several nodes, and for one where none is given."""


class Lookup(NamedTuple):
    """How a name was resolved."""

    addresses: tuple[str, ...]
    seconds: float
    error: str | None
    """None: it was; otherwise why not."""

    @property
    def is_loopback(self) -> bool:
        """Whether it leads to this host only, for this host only."""
        return all(one.startswith("127.") or one == "::1" for one in self.addresses)


def interface_names() -> list[str]:
    """Names of the network interfaces; empty where the system does not tell them."""
    with contextlib.suppress(OSError, AttributeError):
        return [name for _, name in socket.if_nameindex()]
    return []


def interface_kind(name: str) -> str:
    """Of a network interface; its own name may tell more than strangers should know."""
    kinds = {"lo": "loopback", "en": "ethernet", "eth": "ethernet", "bond": "ethernet", "ib": "infiniband",
             "docker": "containers", "br": "containers", "veth": "containers", "cni": "containers", "wl": "wireless",
             "tun": "tunnel", "tap": "tunnel", "wg": "tunnel"}  # fmt: skip
    return next((kind for start, kind in kinds.items() if name.startswith(start)), "other")


def look_up(name: str, *, seconds: float = _LOOKUP_SECONDS) -> Lookup:
    """Resolve a name, waiting no longer than so many seconds: a resolver that does not answer takes minutes."""
    answer: queue.Queue[Lookup] = queue.Queue()
    began = time.monotonic()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            addresses = tuple(dict.fromkeys(str(one[4][0]) for one in found))
            answer.put(Lookup(addresses, time.monotonic() - began, None))
        except (OSError, UnicodeError) as error:
            answer.put(Lookup((), time.monotonic() - began, str(error)))

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return Lookup((), seconds, f"no answer in {seconds:g} s")


def can_listen(address: str, port: int = 0) -> bool:
    """Whether this host has the address, and nobody has the port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, port))
        return True
    return False


def reaches_itself() -> bool:
    """Whether the loopback carries anything: an address may be there while the interface is down."""
    with contextlib.suppress(OSError), socket.socket() as listener, socket.socket() as caller:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        caller.settimeout(_SLOW_SECONDS)
        caller.connect(listener.getsockname())
        return True
    return False


def examine_network(machine: Machine) -> Section:
    """The probe."""
    name = socket.gethostname()
    own, local = look_up(name), look_up("localhost")
    ours = {address: can_listen(address) for address in own.addresses}
    facts: dict[str, Any] = {
        "interfaces": dict(Counter(interface_kind(name) for name in interface_names())),
        "host_name": "unresolved" if own.error else "loopback" if own.is_loopback else "address",
        "loopback": reaches_itself(),
        "host_name_seconds": round(own.seconds, 3),
        "infiniband_ports": infiniband_states(machine),
    }
    findings = [
        *judge_names(own, local, ours),
        *_judge_loopback(facts["loopback"]),
        *judge_ports(can_listen("0.0.0.0", _PORT)),
        *_judge_infiniband(facts["infiniband_ports"]),
    ]
    return Section("network", facts, tuple(findings))


def judge_names(own: Lookup, local: Lookup, ours: dict[str, bool]) -> Iterator[Finding]:
    """Whether names lead where ranks need them to.

    Args:
        own: of the host's own name.
        local: of localhost.
        ours: address of the host's name -> whether this host has it.
    """
    if local.error or not local.is_loopback:
        why = local.error or f"leads to {', '.join(local.addresses)}"
        told = f"localhost {'is not resolved: ' if local.error else ''}{why}"
        effect = "torchrun and accelerate meet there: ranks never start"
        remedy = "give it its line in /etc/hosts"
        yield Finding("error", "localhost", told, effect, remedy, "echo '127.0.0.1 localhost' | sudo tee -a /etc/hosts")
    hang = "gloo without GLOO_SOCKET_IFNAME waits for it, or takes the loopback, which other nodes do not reach"
    on_one = "`toolkit launch` on one node is not concerned: it names the loopback"
    if own.error:
        yield Finding(
            "warning",
            "host-name",
            f"this host's own name is not resolved: {own.error}",
            f"{hang}; {on_one}",
            "give it a line in /etc/hosts with the address that other nodes reach",
            'echo "$(hostname -I | cut -d" " -f1) $(hostname)" | sudo tee -a /etc/hosts',
        )
    elif not all(ours.values()):
        yield Finding(
            "warning",
            "host-name-elsewhere",
            "this host's own name leads to an address that it does not have",
            f"gloo cannot listen there, ranks end or hang at start; {on_one}",
            "correct the line in /etc/hosts or the DNS, or name an interface",
            "export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0",
        )
    elif own.is_loopback:
        yield Finding(
            "note",
            "host-name-loopback",
            "this host's own name leads to its loopback, as Debian and Ubuntu have it",
            f"in a run over several nodes other nodes cannot reach gloo's ranks here; {on_one}",
            "for several nodes name the interface of their network",
            "export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0",
        )
    if own.error is None and own.seconds > _SLOW_SECONDS:
        told = f"resolving this host's own name took {own.seconds:.1f} s"
        effect = "every rank waits as long for each group that it makes"
        yield Finding("warning", "slow-names", told, effect, "give it a line in /etc/hosts")


def _judge_loopback(works: bool) -> Iterator[Finding]:
    if not works:
        told, effect = "nothing can be sent to 127.0.0.1: the loopback is down", "ranks never meet"
        remedy = "switch it on; in a sandbox without a network ask for its own loopback"
        yield Finding("error", "loopback-down", told, effect, remedy, "sudo ip link set lo up")


def judge_ports(free: bool) -> Iterator[Finding]:
    """Whether the usual port is free."""
    if not free:
        told = f"port {_PORT} is taken: another run may be on this machine"
        effect = (
            "`accelerate launch` and `torchrun` without a port of their own fail; `toolkit launch` takes a free one"
        )
        remedy = "name another with --main_process_port, or MAIN_PROCESS_PORT for launch.sh"
        yield Finding("note", "port-taken", told, effect, remedy)


def infiniband_states(machine: Machine) -> list[str]:
    """State of each port of the InfiniBand or RoCE adapters, as ACTIVE or DOWN."""
    states = []
    for path in sorted(machine.root.glob("sys/class/infiniband/*/ports/*/state")):
        text = machine.read(str(path.relative_to(machine.root))) or ""
        states.append(text.partition(":")[2].strip() or "UNKNOWN")
    return states


def _judge_infiniband(states: list[str]) -> Iterator[Finding]:
    down = [state for state in states if state != "ACTIVE"]
    if down and len(down) == len(states):
        told = f"none of the {len(states)} InfiniBand ports is active ({', '.join(sorted(set(down)))})"
        effect = "nodes exchange over TCP"
        yield Finding("note", "infiniband-down", told, effect, "look at cables and subnet manager", "ibstat")
