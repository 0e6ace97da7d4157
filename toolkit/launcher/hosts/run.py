"""The ranks of a run on several hosts, some of which may go and come back."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.emitters import emit
from toolkit.errors import ConfigError, MachineError, ToolkitError
from toolkit.launcher.attempt import Outcome
from toolkit.launcher.hosts.channel import Message
from toolkit.launcher.hosts.gathering import Gathering
from toolkit.launcher.hosts.hostfile import HostLine, read_hostfile
from toolkit.launcher.hosts.links import Link
from toolkit.launcher.hosts.request import HostsRequest
from toolkit.launcher.hosts.together import Together
from toolkit.launcher.inputs import keep_planned, read_inputs, restore_planned
from toolkit.launcher.leftovers import latest_written, newest_checkpoint
from toolkit.launcher.options import LaunchOptions
from toolkit.launcher.replan import plan_on_nodes, recipe_for
from toolkit.launcher.restarts import Written
from toolkit.planner.plan import Plan
from toolkit.run_folder import RunFolder
from toolkit.specs.recipe import Recipe


class OnHosts:
    """All ranks are processes of agents that a controller in this process gives orders to; use `on_hosts`.

    Args:
        run: the run folder, on the controller's machine; each host has one of the same path, or shares this one.
        plan: for all hosts.
        recipe: of the run.
        gathering: of the hosts.
        request: how they are to be used.
        options: of the launch.
    """

    def __init__(
        self,
        run: RunFolder,
        plan: Plan,
        recipe: Recipe,
        *,
        gathering: Gathering,
        request: HostsRequest,
        options: LaunchOptions,
    ) -> None:
        self._run, self._full, self._recipe = run, plan, recipe
        self._gathering, self._request, self._options = gathering, request, options
        self._least = request.fewest(plan, recipe)
        self._told: Message = {}
        self._notes: list[dict[str, Any]] = []
        self._environment = {name: os.environ[name] for name in request.exported(os.environ)}

    def start(self, plan: Plan, options: Sequence[str]) -> Outcome:
        """One attempt with the hosts that are there."""
        nodes = plan.cluster.num_nodes
        members = self._there(nodes)[:nodes]
        together = Together(
            self._gathering,
            members,
            grace_seconds=self._options.grace_seconds,
            least=self._least,
            grows=nodes < self._gathering.num_nodes,
        )
        order = {
            "inputs": read_inputs(self._run),
            "options": list(options),
            "main_address": members[0].address,
            "main_port": members[0].hello["port"],
            "environment": self._environment,
            "grace_seconds": self._options.grace_seconds,
            "notice": self._options.notice,
            "notes": self._notes,
        }
        peers = [link.address for link in members]
        orders = [
            {**order, "machine_rank": rank, "peers": [*peers[:rank], *peers[rank + 1 :]]}
            for rank in range(len(members))
        ]
        outcome = together.run(orders)
        self._notes = []
        self._told = together.newest or self._told
        if together.newest:
            members[0].hello["port"] = together.newest["port"]
        return outcome

    def _there(self, least: int) -> list[Link]:
        """The hosts that are there; without which the run cannot go on, for those it waits a while."""
        wait = self._request.wait_seconds if len(self._gathering.links) < least else 0.0
        return self._gathering.wait(least=least, seconds=wait, patient=True)

    def newest(self) -> tuple[str, Written]:
        """As the first host has told; before it has, from the run folder here, which may be the hosts' own."""
        if not self._told:
            return newest_checkpoint(self._run), latest_written(self._run)
        written = self._told["written"]
        return str(self._told["newest"]), None if written is None else (int(written[0]), int(written[1]))

    def note(self, reason: str) -> None:
        """With the next order: the first host writes the events."""
        self._notes.append({"event": "restarted", "facts": {"reason": reason}})

    def fewer(self, plan: Plan, recipe: Recipe) -> Plan | None:
        """Nothing that hosts which come and go have not led to."""
        return None

    def present(self, plan: Plan) -> Plan:
        """For as many hosts as are there, no more than the plan was made for; its files are in the run folder.

        Raises:
            MachineError: fewer are there than the run may go on with.
        """
        full, least = self._full.cluster.num_nodes, self._least
        there = len(self._there(least))
        if there == plan.cluster.num_nodes:
            return plan
        if there == full:
            restore_planned(self._run)
            return self._full
        for nodes in range(there, least - 1, -1):
            if (smaller := plan_on_nodes(self._full, nodes)) is not None:
                keep_planned(self._run)
                recipe = recipe_for(smaller, self._recipe)
                emit(smaller, self._run.path, recipe, overwrite=True, for_now=True)
                return smaller
        raise MachineError(
            f"{there} of {full} hosts are there, and the run does not fit on {least} to {there} of them; bring the "
            "others back, or plan for fewer nodes"
        )


@contextlib.contextmanager
def on_hosts(
    run: RunFolder, plan: Plan, recipe: Recipe, *, request: HostsRequest, options: LaunchOptions
) -> Iterator[OnHosts]:
    """Connections to the hosts, while the block runs; they learn how it ends.

    Raises:
        ConfigError: the plan is for other hosts than these.
        MachineError: a host is not to be reached, or cannot take part.
    """
    gathering = Gathering(plan.cluster.num_nodes)
    if request.hostfile is not None:
        hosts = read_hostfile(request.hostfile)
        _check_hosts(hosts, plan, run, request)
        gathering.over_ssh(hosts, run.path.absolute())
    else:
        gathering.listening(*request.endpoint(), run.path.absolute())
    error: ToolkitError | None = None
    gathering.beat()
    try:
        ranks = OnHosts(run, plan, recipe, gathering=gathering, request=request, options=options)
        least = request.fewest(plan, recipe)
        gathering.wait(least=least, seconds=request.wait_seconds, patient=request.hostfile is None)
        yield ranks
    except ToolkitError as raised:
        error = raised
        raise
    finally:
        gathering.close(error)


def _check_hosts(hosts: Sequence[HostLine], plan: Plan, run: RunFolder, request: HostsRequest) -> None:
    """Refuse hosts that are not the plan's."""
    nodes, per_node = plan.cluster.num_nodes, plan.world_size // plan.cluster.num_nodes
    faults = [
        f"{host.name} has slots={host.slots}, the plan starts {per_node} rank(s) per node"
        for host in hosts
        if host.slots is not None and host.slots < per_node
    ]
    if len(hosts) < nodes:
        faults.append(f"{request.hostfile} names {len(hosts)} host(s), the plan is for {nodes} nodes")
    if faults:
        again = plan.replan_command(len(hosts) * per_node, run.path)
        raise ConfigError("\n".join([*faults[:-1], f"{faults[-1]}; give more, or plan again: {again}"]))
