"""First contact with a server: what is it called, what model does it serve, how does it count.

Everything wrong with a URL shows here, as a BenchError, before anything is measured.
"""

from dataclasses import replace
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import httpx

from llamastream.bench.errors import BenchError
from llamastream.bench.load import Target, run_workload
from llamastream.bench.openai import RequestOptions
from llamastream.bench.workload import Workload

PROBE_WORDS = 32
PROBE_TIMEOUT_S = 30.0


class ServerUrl(NamedTuple):
    name: str
    url: SplitResult  # the base, ending in /v1


def parse_server(text: str) -> ServerUrl:
    """Read `URL` or `NAME=URL`. A path is kept as it is; without one, /v1 is meant."""
    name, separator, address = text.partition("=")
    if not separator or "/" in name:
        name, address = "", text
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise BenchError(
            f"url must be like http://127.0.0.1:8000 or name=http://... Given: {text}.", param="url"
        )
    return ServerUrl(name or url.netloc, url._replace(path=url.path.rstrip("/") or "/v1"))


async def probe(
    server: ServerUrl,
    options: RequestOptions,
    *,
    run_id: str,
    model: str | None,
    api_key: str | None,
) -> Target:
    """Ask for the model's name, and how many tokens beyond its words a prompt has.

    A server that reports no usage is taken to add none. Raises BenchError.
    """
    name = model or await first_model(server, api_key)
    target = Target(server.name, server.url, name, api_key)
    workload = Workload("probe", PROBE_WORDS, 2, num_requests=1, concurrency=1)
    (outcome,) = (await run_workload(target, options, workload, seed=f"{run_id}/probe")).measured
    if outcome.timeline is None:
        raise BenchError(f"{server.name}: {outcome.error}{_advice(outcome.error, options)}")
    counted = outcome.timeline.num_prompt_tokens
    return replace(target, prompt_overhead=0 if counted is None else counted - PROBE_WORDS)


async def first_model(server: ServerUrl, api_key: str | None) -> str:
    """The id of the first model that a server lists. Raises BenchError."""
    url = server.url._replace(path=server.url.path + "/models").geturl()
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S, trust_env=False) as client:
            reply = await client.get(url, headers=headers)
            reply.raise_for_status()
        return str(reply.json()["data"][0]["id"])
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status == 503:
            raise BenchError(
                f"{server.name}: {url} answered 503: the server is still loading. Wait for it."
            ) from None
        raise BenchError(
            f"{server.name}: {url} answered {status}. Is this an OpenAI-compatible base URL? "
            "Name the model if the server lists none."
        ) from None
    except httpx.ConnectError:
        raise BenchError(
            f"{server.name}: nothing accepts connections at {server.url.netloc}. "
            "Start the server first, or correct the URL."
        ) from None
    except httpx.HTTPError as error:
        raise BenchError(f"{server.name}: {url}: {error or type(error).__name__}") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise BenchError(
            f"{server.name}: {url} is no OpenAI list of models. Correct the URL or name the model."
        ) from None


def _advice(error: str | None, options: RequestOptions) -> str:
    if options.ignore_eos and error and "ignore_eos" in error:
        return " Give --no-ignore-eos: answers then end where the model ends them."
    return ""
