"""The article's server: a Jina Deployment that streams an answer token by token.

Runs in jina's environment (`make jina-env`). Without jina, `llamastream serve` answers the same
client on the same port.
"""

from jina import Deployment

from llamastream.jina import TokenStreamingExecutor

if __name__ == "__main__":
    with Deployment(
        uses=TokenStreamingExecutor,
        uses_with={"model": "demo"},  # or "meta-llama/Llama-2-7b-chat-hf"
        port=12345,
        protocol="grpc",
    ) as deployment:
        deployment.block()
