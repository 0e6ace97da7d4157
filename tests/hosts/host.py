"""One host of a cluster: namespaces that a process keeps open, and what can be done with the machine that they are."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
"""Where its programs are looked for."""
_START_SECONDS = 10.0


def system(*words: str) -> None:
    """Run it to its end.

    Raises:
        RuntimeError: with what it said.
    """
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PATH": SEARCHED})
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


class Namespaces:
    """A process that keeps namespaces open; all that runs in them ends with it."""

    def __init__(self, *kinds: str) -> None:
        words = ["unshare", *(f"--{kind}" for kind in kinds), "--fork", "--kill-child=SIGKILL"]
        words += ["--mount-proc", "--propagation", "private"] if "mount" in kinds else []
        # When its child is killed, it says so in a way that is of no interest.
        silence = subprocess.DEVNULL
        self._keeper = subprocess.Popen([*words, "sleep", "infinity"], stdin=silence, stderr=silence)
        deadline = time.monotonic() + _START_SECONDS
        while (first := self._first()) is None:
            if time.monotonic() > deadline:
                raise RuntimeError("no namespaces after 10 s")
            time.sleep(0.01)
        self.pid = first

    def _first(self) -> int | None:
        """The process that is the first one inside, once it is what it is to be."""
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children").read_text().split()
        ready = children and b"sleep" in Path(f"/proc/{children[0]}/cmdline").read_bytes()
        return int(children[0]) if ready else None

    def end(self) -> None:
        """All that runs there is killed."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._keeper.wait()


@dataclass(frozen=True)
class Switch:
    """What hosts are joined by."""

    folder: Path
    """Of the cluster: for logs, keys and the hosts' own disks."""
    rate: str | None
    """Of every host's link, as tc writes it."""
    delay_ms: float
    """That a frame takes from one host to another."""
    inside: Namespaces
    """Its own."""

    def run(self, words: str) -> None:
        """Run a command on it."""
        system("nsenter", "--target", str(self.inside.pid), "--net", "--", *words.split())


class Host:
    """One of a cluster's machines.

    Args:
        switch: that its cable leads to.
        name: of the machine.
        address: in the network of the switch.
        own: folders of which it has its own, empty at first and kept while it is down; all else is shared.
    """

    def __init__(self, switch: Switch, *, name: str, address: str, own: Sequence[Path]) -> None:
        self.name, self.address = name, address
        self._switch, self._own = switch, own
        self._port = f"to-{name}"
        self._relay: subprocess.Popen[bytes] | None = None
        self._programs: list[subprocess.Popen[bytes]] = []
        self.boot()

    def boot(self) -> None:
        """Switch it on."""
        self._inside = Namespaces("net", "uts", "mount", "pid")
        pid = str(self._inside.pid)
        if self._switch.delay_ms:
            self._relay = _delayed_link(self._switch, self._port, pid)
        else:
            self._switch.run(f"ip link add {self._port} type veth peer name eth0 netns {pid}")
        self._switch.run(f"ip link set {self._port} master br0 up")
        for words in (
            # The same after each start: the others remember it.
            f"ip link set eth0 address 02:00:00:00:00:{self.address.rpartition('.')[2]}",
            f"ip addr add {self.address}/24 dev eth0",
            "ip link set eth0 up",
            "ip link set lo up",
            f"hostname {self.name}",
            "mount -t tmpfs tmpfs /dev/shm",
            f"mount --bind {self._switch.folder / 'etc-hosts'} /etc/hosts",
        ):
            self._command(words)
        self.shape(self._switch.rate)
        for path in (Path.home() / ".ssh", *self._own):
            source = self.disk(path) if path in self._own else self._switch.folder / "ssh"
            for folder in (source, path):
                folder.mkdir(parents=True, exist_ok=True)
            system(*self._enter(), "mount", "--bind", str(source), str(path))
        Path("/run/sshd").mkdir(exist_ok=True)
        sshd = shutil.which("sshd", path=SEARCHED)
        assert sshd is not None, "looked for by `lacking`"
        self._heard = self.log("sshd").stat().st_size if self.log("sshd").exists() else 0
        self.start([sshd, "-D", "-e", "-f", str(self._switch.folder / "ssh" / "sshd_config")], log="sshd")
        self._wait_for_sshd()

    def _wait_for_sshd(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while "Server listening" not in self.log("sshd").read_text(encoding="utf-8")[self._heard :]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: sshd does not start: {self.log('sshd').read_text(encoding='utf-8')}")
            time.sleep(0.01)

    def disk(self, path: Path) -> Path:
        """Where its own folder `path` lies for the others to look at."""
        return self._switch.folder / self.name / str(path).lstrip("/").replace("/", "_")

    def wipe(self) -> None:
        """Its disk is lost; only while it is down."""
        for path in self._own:
            shutil.rmtree(self.disk(path), ignore_errors=True)

    def start(
        self,
        words: Sequence[str],
        *,
        log: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a program on it; what it says goes to `log` of this host."""
        with self.log(log).open("ab") as file:
            program = subprocess.Popen(
                [*self._enter(cwd), *words],
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._programs.append(program)
        return program

    def run(
        self,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        seconds: float = 60.0,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program on it to its end."""
        given = None if env is None else dict(env)
        return subprocess.run(
            [*self._enter(cwd), *words],
            env=given,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def log(self, name: str) -> Path:
        """What programs started under that name have said."""
        return self._switch.folder / f"{self.name}-{name}.log"

    def processes(self) -> list[int]:
        """All that run on it, by their numbers outside, its first one left out."""
        mine, found = Path(f"/proc/{self._inside.pid}/ns/pid").readlink(), []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (path / "ns/pid").readlink() == mine and int(path.name) != self._inside.pid:
                    found.append(int(path.name))
        return found

    def matching(self, words: str) -> list[int]:
        """Processes whose command line holds these words."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if words.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "):
                    found.append(pid)
        return found

    def shape(self, rate: str | None) -> None:
        """Give its link a rate, as tc writes it (`100mbit`), in both directions; None for as fast as it gets."""
        ends = ((self._command, "eth0"), (self._switch.run, self._port))
        for command, device in ends:
            with contextlib.suppress(RuntimeError):  # there was none
                command(f"tc qdisc del dev {device} root")
            if rate is not None:
                # A burst of the largest frame that the kernel hands over (64 KiB), as no cable lets more through at
                # once; room for 200 ms of 100 Mb/s, so that TCP finds the rate, and not losses.
                burst = "256kb" if rate == "10gbit" else "68kb"
                command(f"tc qdisc add dev {device} root tbf rate {rate} burst {burst} limit 3mb")

    def cut(self) -> None:
        """Pull its cable."""
        self._switch.run(f"ip link set {self._port} down")

    def mend(self) -> None:
        """Plug it in again."""
        self._switch.run(f"ip link set {self._port} up")

    def pause(self) -> None:
        """All of its processes stand still; its kernel still answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """They go on."""
        self._signal(signal.SIGCONT)
        for program in self._programs:  # nsenter has stopped with what it has started
            program.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Power off: nothing on it gets to say a word, and nobody hears from it again."""
        with contextlib.suppress(RuntimeError):
            self._switch.run(f"ip link del {self._port}")
        for program in self._programs:  # a stopped one would never take note of its child's end
            program.kill()
        self._inside.end()
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _enter(self, cwd: Path | None = None) -> list[str]:
        where = [f"--wd={cwd}"] if cwd is not None else []
        return ["nsenter", "--target", str(self._inside.pid), "--net", "--uts", "--mount", "--pid", *where, "--"]

    def _command(self, words: str) -> None:
        system(*self._enter(), *words.split())


def _delayed_link(switch: Switch, port: str, host: str) -> "subprocess.Popen[bytes]":
    """A cable that is a program which keeps every frame for a while: some kernels have no netem."""
    each = str(switch.delay_ms / 2)  # from one host to another there are two of them
    words = [
        sys.executable,
        str(Path(__file__).with_name("relay.py")),
        str(switch.inside.pid),
        port,
        host,
        "eth0",
        each,
    ]
    relay = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert relay.stdout is not None, "started with a pipe"
    if relay.stdout.readline() != b"ready\n":
        raise RuntimeError(f"no delayed link to process {host}")
    return relay
