"""A Ray cluster on this machine, for the demonstration and its test: nodes are processes here."""

import contextlib
import time
from collections.abc import Iterator

import psutil
import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from llamastream.ray import build
from tests.ray import free_port

REPLICA = "ServeReplica:llamastream:llamastream"


@contextlib.contextmanager
def running_cluster(num_nodes: int = 2, cpus_per_node: int = 2) -> Iterator[str]:
    """Nodes with Serve on them; yields the address of its ingress."""
    nodes = {"num_cpus": cpus_per_node, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=nodes)
    try:
        for _ in range(num_nodes - 1):
            cluster.add_node(**nodes)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        port = free_port()
        # One ingress: on this machine two would want the same port.
        http = {"host": "127.0.0.1", "port": port}
        serve.start(proxy_location="HeadOnly", http_options=http)
        yield f"http://127.0.0.1:{port}"
    finally:
        ray.shutdown()
        cluster.shutdown()


def run_service(**options: object) -> None:
    """Return when its replicas take requests."""
    serve.run(build(options), name="llamastream", route_prefix="/")


def replicas() -> list[psutil.Process]:
    """The processes of the replicas that are alive."""
    filters = [("class_name", "=", REPLICA), ("state", "=", "ALIVE")]
    found = []
    for actor in list_actors(filters=filters):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(actor.pid))
    return found


def busiest(processes: list[psutil.Process], seconds: float = 0.3) -> psutil.Process:
    """The one that computes: it has the stream."""
    for process in processes:
        process.cpu_percent()  # since when to count
    time.sleep(seconds)
    return max(processes, key=lambda process: process.cpu_percent())
