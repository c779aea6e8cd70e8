"""What a deployment is given: options of `serve` by their names, and those of the cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field

from llamastream.config import EngineSettings, ModelSettings, ServeSettings, StoreSettings
from llamastream.errors import ConfigError
from llamastream.settings import Settings

# Who listens, and for whom, is Ray's affair.
OF_RAY = {
    "host": "serve start --http-host",
    "port": "serve start --http-port",
    "grpc_port": "a server of its own: Ray Serve has no way for jina's gRPC",
}


class ClusterSettings(Settings):
    """How many replicas there are, and what each is given of its node."""

    num_replicas: int = Field(2, ge=1, description="Replicas, or the fewest with max_replicas.")
    max_replicas: int | None = Field(None, ge=1, description="Most replicas, by load. [no scaling]")
    num_cpus: float = Field(2.0, gt=0, description="Processors of a replica, and its threads.")
    num_gpus: float = Field(0.0, ge=0, description="GPUs of a replica.")


@dataclass(frozen=True, slots=True)
class Options:
    """Everything a replica is made from. Crosses to its process."""

    cluster: ClusterSettings
    model: ModelSettings
    engines: EngineSettings
    server: ServeSettings
    store: StoreSettings

    @classmethod
    def load(cls, given: Mapping[str, Any]) -> Self:
        """Raises ConfigError for what is unknown, Ray's own, or does not go together."""
        groups = (ClusterSettings, ModelSettings, EngineSettings, ServeSettings, StoreSettings)
        known = {name for group in groups for name in group.model_fields}
        for name in given:
            if name in OF_RAY:
                raise ConfigError(f"{name} is not an option of a deployment. Use {OF_RAY[name]}.")
            if name not in known:
                raise ConfigError(
                    f"Unknown option {name!r}. Known: {sorted(known - OF_RAY.keys())}."
                )
        options = cls(
            ClusterSettings.load(given, {}),
            ModelSettings.load(given, {}),
            EngineSettings.load(given, {}),
            ServeSettings.load(given, {}),
            StoreSettings.load(given, {}),
        )
        options._check()
        return options

    @property
    def max_replicas(self) -> int:
        return self.cluster.max_replicas or self.cluster.num_replicas

    def _check(self) -> None:
        if self.max_replicas < self.cluster.num_replicas:
            raise ConfigError(
                f"max_replicas must be >= num_replicas ({self.cluster.num_replicas}). "
                f"Given: {self.max_replicas}."
            )
        if self.max_replicas > 1 and not self.store.is_postgres:
            raise ConfigError(
                "store must be a PostgreSQL (postgresql://user@host/name) that all replicas reach: "
                "SQLite is of one server alone. Or give num_replicas=1."
            )
