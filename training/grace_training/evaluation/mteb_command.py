"""`grace-eval mteb`: mteb's tasks and benchmarks."""

from __future__ import annotations

import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    commands.add_parser("mteb", help="tasks and benchmarks of mteb")
