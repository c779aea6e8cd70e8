"""Extra: our engine as an Executor, for people who run Jina Deployments and Flows.

Needs the packages of the extra `jina`, whose pins ask for an environment of its own.
"""

from llamastream.jina.executor import TokenStreamingExecutor

__all__ = ["TokenStreamingExecutor"]
