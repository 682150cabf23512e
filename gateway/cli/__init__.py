"""The command line. `command.py` has all of it in one parser, and serves; each other file is one subcommand or a few."""

from gateway.cli.command import main

__all__ = ["main"]
