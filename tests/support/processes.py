"""Processes as the system lists them, of which each may be gone by the time it is looked at."""

from __future__ import annotations

import psutil


def command_line(process: psutil.Process) -> str:
    """What it was started with; "" once it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
