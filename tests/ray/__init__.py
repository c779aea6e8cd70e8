"""The service under Ray Serve. Ray reads its settings when it is imported: so here, before that."""

import os
import socket


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


os.environ |= {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",  # of all its processes, and read when Ray is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    # Of a small machine that has much else to do:
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "60",
    # Its own are fixed, and another program may have them.
    "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # 30: for balancers that are told late
}
