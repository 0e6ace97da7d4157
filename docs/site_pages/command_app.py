"""What `typer utils docs` looks at: all commands of the toolkit."""

from toolkit.__main__ import command_line

app = command_line()
