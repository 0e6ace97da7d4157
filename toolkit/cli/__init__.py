"""The command line, one module per group of commands: arguments in, one call, text out."""
