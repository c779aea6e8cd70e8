"""A PostgreSQL server of the tests' own, in a folder of its own; never the machine's."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil


class Postgres:
    """Reached by a socket in its folder, and by a port of this machine if it has one."""

    def __init__(self, programs: Path, folder: Path, port: int | None) -> None:
        self._programs = programs
        self._folder = folder
        self._port = port
        where = f"host={folder}" if port is None else f"host={folder}&port={port}"
        self.url = f"postgresql://postgres@/postgres?{where}"

    @classmethod
    @contextmanager
    def running(cls, *, port: int | None = None) -> Iterator[Self]:
        """Made, started, and gone at the end. Raises FileNotFoundError without its programs."""
        programs = find_postgres()
        if programs is None:
            raise FileNotFoundError("no PostgreSQL server on this machine (initdb not found)")
        folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: it holds a socket
        if os.getuid() == 0:
            shutil.chown(folder, "nobody")
        server = cls(programs, folder, port)
        try:
            server._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
            server.start()
            yield server
        finally:
            if server.is_running():
                server.kill()  # also one that is frozen
            shutil.rmtree(folder)

    def start(self) -> None:
        address = "" if self._port is None else f"127.0.0.1 -c port={self._port}"
        options = f"-c fsync=off -c unix_socket_directories={self._folder}"
        options += f" -c listen_addresses={address}"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self._folder / "log"), "start")

    def is_running(self) -> bool:
        try:
            return psutil.pid_exists(self._pid())
        except FileNotFoundError:
            return False

    def crash(self) -> None:
        """Stop at once, with nothing written out: what the next start finds is as after a crash."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def kill(self) -> None:
        """`kill -9` of the server and of all its processes."""
        processes = self.freeze()
        for process in processes:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes)

    def freeze(self) -> list[psutil.Process]:
        """Stop all its processes where they are: connections stay open, and nobody answers."""
        postmaster = psutil.Process(self._pid())
        postmaster.suspend()  # first, or it would start others
        processes = [postmaster, *postmaster.children()]
        for process in processes[1:]:
            process.suspend()
        return processes

    def thaw(self) -> None:
        """Let them go on as if nothing had been."""
        postmaster = psutil.Process(self._pid())
        for process in (*postmaster.children(), postmaster):
            process.resume()

    def _pid(self) -> int:
        """Left behind by a server that was killed. Raises FileNotFoundError after `crash`."""
        return int((self._folder / "data" / "postmaster.pid").read_text().splitlines()[0])

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        if os.getuid() == 0:
            # The server refuses to run as root. NOTE: `user=` of subprocess would fork where it
            # otherwise does not, and a fork beside gRPC's threads may crash.
            command = ["runuser", "-u", "nobody", "--", *command]
        subprocess.run(command, cwd=self._folder, check=True, stdout=subprocess.DEVNULL)


def find_postgres() -> Path | None:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
