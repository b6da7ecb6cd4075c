"""`grace-eval local`: suites from JSON lines."""

from __future__ import annotations

import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    commands.add_parser("local", help="suites from JSON lines, and the shipped one")
