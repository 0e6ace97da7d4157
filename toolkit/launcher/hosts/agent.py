"""What runs on each host of a run: starts its ranks when the controller says so, and tells how they are.

`python -m toolkit.launcher.hosts FOLDER` is started over ssh, or by the launcher itself, and talks through its
own pipes; under a scheduler `join` connects to the controller.
"""

import contextlib
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.emitters.command import launch_command
from toolkit.emitters.network_environment import network_environment, socket_environment
from toolkit.errors import EngineError, MachineError, Preempted, ToolkitError
from toolkit.launcher.attempt import Attempt, Outcome
from toolkit.launcher.hosts.channel import PROTOCOL, Channel, Message
from toolkit.launcher.inputs import put_inputs, require_what_is_read
from toolkit.launcher.leftovers import latest_written, newest_checkpoint, set_aside
from toolkit.launcher.notices import watched
from toolkit.launcher.processes import environment_of
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.interfaces import address_towards, interface_of, interfaces
from toolkit.versions import installed_versions

BEAT_SECONDS = 1.0
"""Between two signs of life, in both directions."""
SILENCE_SECONDS = 12.0
"""Without a sign of the controller after which an agent ends its ranks. Less than the controller's own patience: by the
time it starts others in their place, these are gone and write no more."""


class Agent:
    """Serves one connection to a controller.

    Args:
        channel: to it.
        folder: of the run, on this host.
    """

    def __init__(self, channel: Channel, folder: Path) -> None:
        self._channel, self._run = channel, RunFolder(folder)
        self._orders: queue.Queue[Message | None] = queue.Queue()
        self._attempt: Attempt | None = None
        self._heard = time.monotonic()
        self._over = threading.Event()

    def serve(self) -> Message | None:
        """Do as the controller says, until it says goodbye; None where it has gone without."""
        self._channel.send("hello", **_introduction())
        threading.Thread(target=self._listen, name="controller", daemon=True).start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        try:
            while (order := self._orders.get()) is not None:
                if order["kind"] == "bye":
                    return order
                self._channel.send("ended", **self._start(order))
            return None
        finally:
            self._over.set()

    def _start(self, order: Message) -> dict[str, Any]:
        """One attempt, from the files of the run to the end of the ranks."""
        attempt = Attempt(self._run, grace_seconds=order["grace_seconds"])
        try:
            put_inputs(self._run, order["inputs"])
            require_what_is_read(self._run)
            plan = Plan.load(self._run.plan)
            set_aside(self._run)
            if order["machine_rank"] == 0:
                for note in order["notes"]:
                    self._run.note(note["event"], **note["facts"])
            command = launch_command(
                self._run.path,
                plan,
                machine_rank=order["machine_rank"],
                main_process_ip=order["main_address"],
                main_process_port=order["main_port"],
            )
            network = _network(plan, order["peers"], {**os.environ, **order["environment"]})
            environment = environment_of(plan, network=network) | order["environment"]
            self._attempt = attempt
            with watched(order["notice"], self._tell):
                outcome = attempt.wait([*command, *order["options"]], environment)
        except ToolkitError as error:
            outcome = Outcome(error.exit_code, error, started=False, hung=())
        except SystemExit as left:  # a signal to this agent itself
            outcome = Outcome(int(left.code or 0), None, started=True, hung=())
        finally:
            self._attempt = None
        told = None if outcome.error is None else (type(outcome.error).__name__, str(outcome.error))
        return {
            "status": outcome.status,
            "error": told,
            "started": outcome.started,
            "hung": outcome.hung,
            "newest": newest_checkpoint(self._run),
            "written": latest_written(self._run),
            "finished": self._run.finished,
            "port": free_port(),
        }

    def _tell(self, notice: str) -> None:
        """The controller lets all ranks save and leave: this host's alone cannot."""
        self._channel.send("notice", said=notice)

    def _listen(self) -> None:
        """Orders that concern running ranks are followed at once."""
        for message in self._channel.messages():
            self._heard = time.monotonic()
            match message["kind"]:
                case "leave" if self._attempt is not None:
                    self._attempt.leave()
                case "end" if self._attempt is not None:
                    self._attempt.end()
                case "start" | "bye":
                    self._orders.put(message)
        # Gone without a word: killed, or the connection was closed. All agents see it, so that the ranks can save.
        if not self._over.is_set() and (attempt := self._attempt) is not None:
            attempt.leave()
        self._orders.put(None)

    def _beat(self) -> None:
        """Signs of life, with those of the ranks; and an end to ranks whose controller gives none."""
        while not self._over.wait(BEAT_SECONDS):
            attempt = self._attempt
            self._channel.send("beat", ranks=[] if attempt is None else attempt.ranks())
            if time.monotonic() - self._heard > SILENCE_SECONDS:
                if attempt is not None:
                    sys.stderr.write(f"{socket.gethostname()}: the controller is silent; its ranks are ended\n")
                    attempt.end()
                self._orders.put(None)
                return


def join(folder: Path, endpoint: tuple[str, int], *, node_rank: int, wait_seconds: float) -> None:
    """Be this host's agent of a controller that listens at `endpoint`, until the run has ended.

    Args:
        folder: of the run, on this host.
        endpoint: host and port.
        node_rank: of this host, 1 and more.
        wait_seconds: for the controller to come, or to come back.

    Raises:
        MachineError: nobody was there for so long.
        ToolkitError: what the run has ended with.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            connection = socket.create_connection(endpoint, timeout=10.0)
        except OSError as error:
            if time.monotonic() > deadline:
                where = f"{endpoint[0]}:{endpoint[1]}"
                raise MachineError(
                    f"--rdzv-endpoint {where}: no controller there for {wait_seconds:.0f} s ({error}); start `toolkit "
                    "launch` with --node-rank 0 on that host, and let its port be reached from here"
                ) from None
            time.sleep(1.0)
            continue
        connection.settimeout(None)
        with connection, connection.makefile("rb") as incoming, connection.makefile("wb") as outgoing:
            channel = Channel(incoming, outgoing)
            channel.send("seat", node_rank=node_rank)
            bye = Agent(channel, folder).serve()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if bye is not None:
            _end_as(bye)
            return
        deadline = time.monotonic() + wait_seconds


def _end_as(bye: Message) -> None:
    """As the run has ended, on every host."""
    if bye["error"] is not None:
        from toolkit import errors

        kind, text = bye["error"]
        raise getattr(errors, kind, EngineError)(text)


def _introduction() -> dict[str, Any]:
    """Who this host is."""
    own = os.environ.get("SSH_CONNECTION", "").split()
    return {
        "protocol": PROTOCOL,
        "host": socket.gethostname(),
        # The side of the connection that the controller has reached.
        "address": own[2] if len(own) == 4 else None,
        "versions": installed_versions(),
        "clock": time.time(),
        "port": free_port(),
    }


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _network(plan: Plan, peers: list[str], given: Mapping[str, str]) -> Mapping[str, str] | None:
    """What the ranks are told of the network on this host; None where all of them are here.

    Raises:
        MachineError: the interface that the plan or the environment names is not there.
    """
    known, host = interfaces(), socket.gethostname()
    for name, source in (
        (plan.cluster.network_interface, "network_interface of the cluster"),
        (given.get("GLOO_SOCKET_IFNAME"), "GLOO_SOCKET_IFNAME"),
    ):
        if name is not None and known and not set(name.split(",")) <= known.keys():
            there = ", ".join(sorted(known))
            raise MachineError(f"{host}: {source} is {name}, which this host does not have; it has {there}")
    if plan.cluster.num_nodes == 1:
        return None
    chosen = plan.cluster.network_interface
    for peer in peers:
        if chosen is None:
            with contextlib.suppress(OSError):
                chosen = interface_of(address_towards(peer))
    known_of_it = {name: value for name, value, _ in network_environment(plan.cluster)}
    return {**socket_environment(chosen), **known_of_it}


def main() -> None:
    """Over ssh: messages through stdin and stdout; all else that is said goes to stderr."""
    # Files of our own: Python closes its standard ones at the end, and a thread still reads.
    incoming, outgoing = (
        os.fdopen(os.dup(file.fileno()), mode) for file, mode in ((sys.stdin, "rb"), (sys.stdout, "wb"))
    )
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.suppress(Preempted):
        Agent(Channel(incoming, outgoing), Path(sys.argv[1])).serve()
