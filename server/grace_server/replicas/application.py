"""The Serve application: `serve run grace_server.replicas.application:build`, or `deploy/ray/serve.yaml`.

The ingress is one process, never more: it has the data folder, and an index has one writer.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle

from grace.checkpoint import Checkpoint
from grace.prompt import Prompter
from grace_server import logs
from grace_server.app import create_app
from grace_server.engine import MakeEngine, make_engine
from grace_server.life import Life
from grace_server.replicas.engine import ReplicaEngine
from grace_server.replicas.one_request_id import OneRequestId
from grace_server.replicas.replica import EngineReplica
from grace_server.settings import Settings

ENGINES, INGRESS = "engines", "ingress"  # the names of the deployments
HEALTH_S = 2.0
STOP_S = 15.0  # after the drain: for an engine to end
PROBES_AND_SEARCHES = 1_000  # requests at once that need no place in an engine


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """The application. Settings by name come as `args` of a Serve configuration, or as NAME=VALUE of `serve run`.

    What they leave out comes from the `GRACE_*` variables of the process that builds it, and from their defaults.
    """
    return application(Settings(**arguments))


def application(settings: Settings, *, make_engine: MakeEngine = make_engine) -> serve.Application:
    """The application of some settings. Tests and benchmarks give a `make_engine` of their own."""
    stop_s = settings.drain_timeout_s + STOP_S
    engines = serve.deployment(
        name=ENGINES,
        # What admission lets in for each replica: the queue is the ingress's, with its deadlines and its order.
        max_ongoing_requests=settings.max_running_requests,
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.ray_min_replicas,
            max_replicas=settings.ray_max_replicas,
            target_ongoing_requests=settings.ray_target_requests or settings.max_running_requests / 2,
        ),
        ray_actor_options={"num_cpus": settings.ray_cpus, "num_gpus": settings.ray_gpus},
        graceful_shutdown_timeout_s=stop_s,
        health_check_period_s=HEALTH_S,  # a dead process is noticed by this alone
    )(EngineReplica)
    texts = settings.ray_max_replicas * settings.max_running_requests + settings.max_queued_requests
    ingress = serve.deployment(
        name=INGRESS,
        num_replicas=1,
        max_ongoing_requests=texts + PROBES_AND_SEARCHES,  # so that it is admission that refuses, with a reason
        graceful_shutdown_timeout_s=stop_s,
        health_check_period_s=HEALTH_S,
        ray_actor_options={"num_cpus": 1, "resources": dict(settings.ray_ingress_resources)},
    )(serve.ingress()(Ingress))
    # Replicas have no use for the keys.
    bare = settings.model_copy(update={"api_keys": (), "audit_key": None, "qdrant_api_key": None})
    return ingress.bind(settings, engines.bind(bare, make_engine))


class Ingress:
    """The application of `app.py`, whose engine is the replicas."""

    def __init__(self, settings: Settings, replicas: DeploymentHandle[Any]) -> None:
        self._settings, self._replicas = settings, replicas
        self._settled = False
        logs.configure(settings.log_level)
        if not settings.api_keys:
            logs.service.warning("no key is set: whoever reaches the proxy may ask")

    def __serve_build_asgi_app__(self) -> OneRequestId:
        """Called by Serve, once, in the process that serves."""
        name = serve.get_replica_context().app_name

        def connect(settings: Settings, checkpoint: Checkpoint, prompter: Prompter) -> ReplicaEngine:
            return ReplicaEngine(
                self._replicas, checkpoint.fingerprint, attempts=settings.ray_attempts, count=lambda: _running(name)
            )

        app = create_app(self._settings, make_engine=connect)
        self._life: Life = app.state.life
        return OneRequestId(app)

    async def check_health(self) -> None:
        """Asked by Serve, which replaces an ingress that raises: its model is missing, say, or its folder in use."""
        if self._life.fatal.is_set():
            raise RuntimeError(f"the service is {self._life.phase}; its log says why")
        if self._life.phase == "ready" and not self._settled:
            self._settled = True
            gc.freeze()  # what is here for good need not be looked through again and again


def _running(application: str) -> int:
    states = serve.status().applications[application].deployments[ENGINES].replica_states
    return sum(number for state, number in states.items() if state == "RUNNING")
