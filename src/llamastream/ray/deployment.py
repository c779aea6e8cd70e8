"""One replica is one whole server: engine, service, journal and its HTTP application.

Ray asks `check_health` whether it is well, scales by `record_autoscaling_stats`, and ends it
through the application's lifespan. Knows no wire.
"""

import math
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamastream.app import Assembly
from llamastream.cli.serve import application
from llamastream.cli.stopping import Stopping
from llamastream.generation import StoredAnswers
from llamastream.logs import configure_logging
from llamastream.ray.options import Options
from llamastream.types import EngineState

NAME = "llamastream"
BUSY = 0.75  # share of a replica's seats from which on there should be one more
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 2.0, 10.0


def build(args: dict[str, Any]) -> serve.Application:
    """The application for `serve run llamastream.ray:build option=value ...`, or for a config file.

    Raises ConfigError.
    """
    options = Options.load(args)
    cluster = options.cluster
    deployment: Any = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        num_replicas=None if cluster.max_replicas else cluster.num_replicas,
        autoscaling_config=_autoscaling(options) if cluster.max_replicas else None,
        ray_actor_options={"num_cpus": cluster.num_cpus, "num_gpus": cluster.num_gpus},
        # What waits, waits in our own queue, whose limit is told with a 429.
        max_ongoing_requests=options.server.max_connections,
        graceful_shutdown_timeout_s=options.store.drain_timeout,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
    )
    return deployment.bind(options)


class Replica:
    """Made in a process of its own, where its rank is known."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._assembly: Assembly
        self._stored: StoredAnswers

    def __serve_build_asgi_app__(self) -> ASGIApp:
        options = self._options
        configure_logging(options.server.log_level)
        rank = serve.get_replica_context().rank.rank
        name = f"{options.store.server_name}-{rank}"
        store = options.store.model_copy(update={"server_name": name})
        model = options.model
        if not options.engines.engine_url and model.threads is None:
            model = model.model_copy(update={"threads": max(int(options.cluster.num_cpus), 1)})
        parts = application(model, options.engines, options.server, store)
        self._assembly, self._stored = parts.assembly, parts.stored
        stopping = Stopping(parts.assembly.answers, parts.stored, 0.0)
        return WholeLife(parts.app, parts.assembly, stopping)

    async def check_health(self) -> None:
        """Raises where only a new process helps."""
        state = self._assembly.answers.status().state
        if state is EngineState.DEAD or self._stored.is_lost:
            raise RuntimeError(f"engine={state.value} is_store_lost={self._stored.is_lost}")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Background answers count as well, which have no connection."""
        status = self._assembly.answers.status()
        return {"active": float(status.num_running + status.num_waiting)}


class WholeLife:
    """An application that takes requests once its model is loaded, and hands over what it has in
    hand before it ends. By then Ray has waited for the open connections."""

    def __init__(self, app: ASGIApp, assembly: Assembly, stopping: Stopping) -> None:
        self._app = app
        self._assembly = assembly
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def told() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._stopping.run(is_patient=False)
            return message

        async def tell(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._assembly.engine.ready()
            await send(message)

        await self._app(scope, told, tell)


def _autoscaling(options: Options) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=options.cluster.num_replicas,
        max_replicas=options.max_replicas,
        policy=AutoscalingPolicy(
            policy_function=ByActiveAnswers,
            policy_kwargs={"target": max(BUSY * options.model.max_num_seqs, 1.0)},
        ),
    )


class ByActiveAnswers:
    """So many replicas that each has `target` answers, running or waiting. Ray bounds the number,
    and waits before it follows."""

    def __init__(self, target: float) -> None:
        self._target = target

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        active = sum((context.aggregated_metrics or {}).get("active", {}).values())
        return math.ceil(active / self._target), {}
