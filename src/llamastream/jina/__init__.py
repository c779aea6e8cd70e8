"""All of the article's system: Jina's wire on gRPC and HTTP, and an Executor.

The wire needs none of Jina's packages. The Executor does (extra `jina`, whose pins ask for an
environment of their own), so it is imported when it is first named.
"""

from typing import Any

__all__ = ["TokenStreamingExecutor"]


def __getattr__(name: str) -> Any:
    if name != "TokenStreamingExecutor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llamastream.jina.executor import TokenStreamingExecutor

    return TokenStreamingExecutor
