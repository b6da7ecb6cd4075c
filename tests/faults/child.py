"""`grace-serve` itself, but for an engine that is fake."""

from __future__ import annotations

from grace.checkpoint import Checkpoint
from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace_server import cli, logs
from grace_server.app import create_app
from grace_server.settings import Settings


def main(model: str, seconds_per_text: str, *flags: str) -> int:
    """Serve until a signal comes or nothing goes on; the exit code."""
    given = {name: value for name, value in vars(cli.parser().parse_args(flags)).items() if value is not None}
    settings = Settings(**{"model": model, "port": 0, **given})
    logs.configure(settings.log_level)
    checkpoint = Checkpoint.load(model)
    engine = FakeEngine(Prompter(checkpoint), seconds_per_text=float(seconds_per_text))
    return cli.run(create_app(settings, engine=engine, checkpoint=checkpoint), settings)
