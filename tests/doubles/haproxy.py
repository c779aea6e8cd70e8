"""HAProxy with the configuration in deploy/, which is the one people will use."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.soak.server import free_port

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
TLS = "bind :443 ssl crt /etc/ssl/llamastream.pem alpn h2,http/1.1"


class Balancer(NamedTuple):
    port: int
    log: Path

    def served(self, path: str) -> list[str]:
        """Which servers, `a`, `b` or `c`, were given the requests of this path that are over."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [line[-2].partition("/")[2] for line in lines if path in line]


@contextmanager
def running_haproxy(folder: Path, ports: Sequence[tuple[int, int]]) -> Iterator[Balancer]:
    """In front of three servers, by their HTTP and gRPC ports. Nothing of the file is changed but
    addresses and TLS."""
    port, text = free_port(), CONFIG.read_text()
    changes = {TLS: f"bind 127.0.0.1:{port}"}
    for number, (http, grpc) in enumerate(ports, 1):
        changes[f"10.0.0.{number}:8000"] = f"127.0.0.1:{http}"
        changes[f"10.0.0.{number}:12345"] = f"127.0.0.1:{grpc}"
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "haproxy.cfg").write_text(text)
    log = folder / "haproxy.log"
    command = [str(HAPROXY), "-db", "-f", str(folder / "haproxy.cfg")]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file, stdout=file) as process:
        try:
            yield Balancer(port, log)
        finally:
            process.kill()
