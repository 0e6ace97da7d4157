"""Nothing that names a person, a host or a place leaves with a report."""

from pathlib import Path

import pytest

from toolkit.doctor.machine import Machine
from toolkit.doctor.redact import Identity, redacted, redacted_all

HOME = "/" + "home/ada.lovelace"
WHO = Identity(
    frozenset({"ada.lovelace", "ada"}), frozenset({"engine7.uni.example", "engine7"}), (HOME, "/data/secret")
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{HOME}/venv/lib/python3.11/site-packages/torch/lib/libc10.so: broken",
         "<path>/site-packages/torch/lib/libc10.so: broken"),
        (f"No such file: '{HOME}/my secret project/run'", "No such file: '<path>'"),
        (f"{HOME}: cannot be written", "<path>: cannot be written"),
        ("/data/secret/run has 3.0 GiB free", "<path> has 3.0 GiB free"),
        ("/fast/lovelace/models/x.bin", "<path>"),
        ("~/projects/x", "<path>"),
        ("D:\\Ada\\venv", "<path>"),
        ("/usr/lib/x86_64-linux-gnu/libm.so.6", "/usr/lib/x86_64-linux-gnu/libm.so.6"),
        ("look at /etc/hosts and /dev/shm", "look at /etc/hosts and /dev/shm"),
        ("connect to engine7.uni.example failed on engine7", "connect to <host> failed on <host>"),
        ("user ADA may not", "user <user> may not"),
        ("adamw on cuda", "adamw on cuda"),
        ("from 192.168.4.17 to 127.0.0.1", "from <address> to 127.0.0.1"),
        ("fe80::1ff:fe23:4567:890a%eth0", "<address>"),
        ("torch 2.13.0, CUDA 12.8.93", "torch 2.13.0, CUDA 12.8.93"),
        ("GPU-1f3a5b7c-aaaa-bbbb-cccc-0123456789ab", "<serial>"),
        ("token hf_abcdefghijklmnopqrst", "token hf_***"),
        ("key sk-abcdefghijklmnop", "key <secret>"),
        ("https://ada:pw@host.example/x", "https://***@host.example/x"),
        ("mail ada@uni.example", "mail <mail>"),
        ("18/20 GiB and/or 1/2", "18/20 GiB and/or 1/2"),
    ],
)  # fmt: skip
def test_texts(text: str, shown: str) -> None:
    assert redacted(text, WHO) == shown


def test_values_of_mappings_and_lists_are_redacted_and_numbers_stay() -> None:
    given = {"error": f"{HOME}/x", "list": ["engine7", 1.5, None, True], "nested": {"ada": "ada"}}
    assert redacted_all(given, WHO) == {
        "error": "<path>",
        "list": ["<host>", 1.5, None, True],
        "nested": {"ada": "<user>"},
    }


def test_who_runs_this(tmp_path: Path) -> None:
    home = tmp_path / "grace-hopper"
    environment = {"USER": "grace-hopper", "LOGNAME": "root", "HOSTNAME": "mark1.navy.example", "SUDO_USER": "hop"}
    found = Identity.of(Machine(Path("/"), environment, tmp_path, home, "linux"))
    assert {"grace-hopper", "hop"} <= found.users
    assert "root" not in found.users  # names nobody
    assert {"mark1.navy.example", "mark1"} <= found.hosts
    assert found.folders[0] == str(home)
