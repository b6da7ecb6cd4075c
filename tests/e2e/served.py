"""A process of its own that serves the playground: `python -m tests.e2e.served MODEL_FOLDER DATA_FOLDER`.

Three doors, each a whole service around the fake engine: a quick one, a slow one, and one that wants a key. Prints
their addresses as a line of JSON once all are ready.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import uvicorn

from grace.checkpoint import Checkpoint
from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace_server import cli
from grace_server.app import create_app
from grace_server.settings import Settings

KEY = "the-right-key"
DOORS = {"quick": (0.0, ()), "slow": (1.2, ()), "keyed": (0.0, (KEY,))}  # seconds per text, keys


async def main(model: Path, data: Path) -> None:
    checkpoint = Checkpoint.load(model)
    prompter = Prompter(checkpoint)
    addresses, servers = {}, []
    for name, (seconds, keys) in DOORS.items():
        settings = Settings.model_validate(
            {"data_dir": data / name, "model": str(model), "port": 0, "api_keys": ",".join(keys)}
        )
        engine = FakeEngine(prompter, seconds_per_text=seconds)
        app = create_app(settings, engine=engine, checkpoint=checkpoint)
        listener = cli.listen(settings)
        addresses[name] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        servers.append(asyncio.create_task(server.serve(sockets=[listener])))
        while app.state.life.phase != "ready":  # noqa: ASYNC110 - the service has no event for it
            await asyncio.sleep(0.02)
    print(json.dumps(addresses), flush=True)  # noqa: T201
    await asyncio.gather(*servers)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
