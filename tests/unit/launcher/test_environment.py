"""What ranks are told of the place that they write to."""

import sys

import pytest

from toolkit.launcher.processes import environment_for


@pytest.mark.parametrize("terminal", [True, False])
def test_colours_are_forced_on_terminals_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Jupyter sets both; a bar that is drawn anew every second would fill the cell's output.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("CLICOLOR_FORCE", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    environment = environment_for("cpu")
    assert ("FORCE_COLOR" in environment, "CLICOLOR_FORCE" in environment) == (terminal, terminal)
