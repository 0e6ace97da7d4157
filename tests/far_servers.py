"""Servers that checkpoints are kept behind, each of a test's own: S3's protocol, and sftp."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "it has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens at {port}")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """URL of a bucket of moto's server, which speaks S3's protocol over HTTP."""
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    )
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "moto-needs-any",
        "AWS_SECRET_ACCESS_KEY": "planted-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        try:
            wait_for(port, server)
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
            yield "s3://bucket/runs/alpha"
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a folder behind an sshd of this test's own, with keys of its own."""
    pytest.importorskip("sshfs")
    if SSHD is None or os.geteuid() != 0:
        pytest.skip("needs openssh-server (Debian: apt install openssh-server) and root")
    folder, port = tmp_path_factory.mktemp("sshd"), free_port()
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    for key in (folder / "host", home / ".ssh/id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {home}/.ssh/id_ed25519.pub\nSubsystem sftp internal-sftp\n"
    )
    public = (folder / "host.pub").read_text().split()[:2]
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(public)}\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        try:
            wait_for(port, server)
            yield f"sftp://root@127.0.0.1:{port}{folder}/far/run"
        finally:
            server.kill()
            server.wait()
