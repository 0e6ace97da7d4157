"""`toolkit launch` names its defaults itself, as importing the launcher would slow every command: they are the same."""

import inspect

from toolkit.cli.runs import launch
from toolkit.launcher import HostsRequest, LaunchOptions


def test_the_command_line_has_the_launchers_defaults() -> None:
    given = {name: parameter.default for name, parameter in inspect.signature(launch).parameters.items()}
    options, request = LaunchOptions(), HostsRequest()
    assert (given["max_restarts"], given["grace"], given["preflight"], given["wait"]) == (
        options.max_restarts,
        options.grace_seconds,
        options.preflight,
        request.wait_seconds,
    )
    assert (given["overwrite"], given["resume"], given["notice"]) == (options.overwrite, options.resume, options.notice)
