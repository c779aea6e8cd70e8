"""What a Ray Serve deployment may be given, and what it does by itself. No cluster is started."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs Ray's environment")

from llamastream.errors import ConfigError
from llamastream.ray.deployment import ByActiveAnswers, Replica, WholeLife
from llamastream.ray.options import Options
from llamastream.types import EngineState, EngineStatus

URL = "postgresql://user@host/name"


def test_options_are_those_of_serve_as_texts_or_values() -> None:
    given = {"model": "demo", "store": URL, "num_replicas": "3", "max_num_seqs": 8, "page": "false"}
    options = Options.load(given)
    assert (options.cluster.num_replicas, options.max_replicas) == (3, 3)
    assert (options.model.max_num_seqs, options.server.page) == (8, False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"store": URL, "modle": "demo"}, "Unknown option 'modle'"),
        ({"store": URL, "port": 80}, "port .* serve start --http-port"),
        ({"store": URL, "grpc_port": 1}, "grpc_port .* no way for jina's gRPC"),
        ({}, "store must be a PostgreSQL"),
        ({"store": "sqlite:///x", "num_replicas": 2}, "store must be a PostgreSQL"),
        (
            {"store": URL, "num_replicas": 3, "max_replicas": 2},
            r"max_replicas must be >= num_replicas .3.",
        ),
        ({"store": URL, "num_cpus": 0}, "num-cpus"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Options.load(given)


def test_one_replica_may_have_sqlite() -> None:
    assert Options.load({"num_replicas": 1}).max_replicas == 1


@pytest.mark.parametrize(("active", "wanted"), [([], 0), ([0, 0], 0), ([24], 1), ([30, 25, 1], 3)])
def test_replicas_follow_answers_and_not_connections(active: list[int], wanted: int) -> None:
    context: Any = SimpleNamespace(aggregated_metrics={"active": dict(enumerate(active))})
    assert ByActiveAnswers(24.0)(context) == (wanted, {})


@pytest.mark.parametrize(
    ("state", "is_lost", "is_well"),
    [
        (EngineState.READY, False, True),
        (EngineState.LOADING, False, True),  # of engines elsewhere: to start again brings none back
        (EngineState.DEAD, False, False),
        (EngineState.READY, True, False),
    ],
)
async def test_a_replica_is_ill_where_only_a_new_process_helps(
    state: EngineState, is_lost: bool, is_well: bool
) -> None:
    replica = Replica(Options.load({"store": URL}))
    status = EngineStatus(state, 1, 1, 3, 2, 1, 1)
    replica._assembly = SimpleNamespace(answers=SimpleNamespace(status=lambda: status))  # type: ignore[assignment]
    replica._stored = SimpleNamespace(is_lost=is_lost)  # type: ignore[assignment]
    assert await replica.record_autoscaling_stats() == {"active": 5.0}
    if is_well:
        await replica.check_health()
    else:
        with pytest.raises(RuntimeError, match=state.value):
            await replica.check_health()


async def test_a_replica_starts_with_its_model_loaded_and_hands_over_before_its_end() -> None:
    happened = []

    class Engine:
        async def ready(self) -> None:
            happened.append("loaded")

    class Stopping:
        async def run(self, *, is_patient: bool) -> None:
            happened.append("handed over")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for kind in ("startup", "shutdown"):
            message = await receive()
            assert message["type"] == f"lifespan.{kind}"
            happened.append(kind)
            await send({"type": f"lifespan.{kind}.complete"})

    async def send(message: Any) -> None:
        happened.append(message["type"])

    told = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Any:
        return {"type": next(told)}

    assembly: Any = SimpleNamespace(engine=Engine())
    stopping: Any = Stopping()
    await WholeLife(app, assembly, stopping)({"type": "lifespan"}, receive, send)
    assert happened == [
        *("startup", "loaded", "lifespan.startup.complete"),
        *("handed over", "shutdown", "lifespan.shutdown.complete"),
    ]
