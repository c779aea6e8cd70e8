"""What running answers feel while long prompts arrive, server by server, in turns.

    python bench/gaps.py --url ours=http://127.0.0.1:8000 --url llama.cpp=http://127.0.0.1:9101

Prompts are random token ids and answers are drawn, so it works with any vocabulary and with random
weights. The numbers are the gaps between two chunks of the streams that run: alone, and from the
first prompt's arrival to the last one's answer.
"""

import argparse
import http.client
import json
import random
import statistics
import threading
import time
import urllib.request
from urllib.parse import urlsplit

FIRST_ID, LAST_ID = 300, 30_000  # beyond a Llama's control and byte tokens
ALONE_S = 8.0


class Stream(threading.Thread):
    """An answer that runs until it is stopped; when each of its chunks came."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.is_stopped = False
        self._url = url

    def run(self) -> None:
        body = completion(16, max_tokens=2000, stream=True, ignore_eos=True)
        connection, response = ask(self._url, body)
        for line in response:
            if line.startswith(b"data: {"):
                self.times.append(time.perf_counter())
            if self.is_stopped:
                break
        connection.close()


def completion(num_tokens: int, **options: object) -> dict[str, object]:
    prompt = [random.randint(FIRST_ID, LAST_ID) for _ in range(num_tokens)]
    return {"prompt": prompt, "temperature": 1.0, "top_p": 1.0, **options}


def model_of(url: str) -> str:
    with urllib.request.urlopen(f"{url}/v1/models") as response:
        return str(json.load(response)["data"][0]["id"])


def ask(
    url: str, body: dict[str, object]
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    headers = {"Content-Type": "application/json"}
    body = {"model": model_of(url), **body}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{url}: {response.status} {response.read()[:300]!r}")
    return connection, response


def gaps(streams: list[Stream], start: float, end: float) -> list[float]:
    """Of all streams, in ms, those that touch the time between."""
    return sorted(
        1000 * (b - a)
        for stream in streams
        for a, b in zip(stream.times, stream.times[1:], strict=False)
        if b > start and a < end
    )


def measure(name: str, url: str, args: argparse.Namespace) -> None:
    streams = [Stream(url) for _ in range(args.streams)]
    for stream in streams:
        stream.start()
    while not all(len(stream.times) > 1 for stream in streams):
        if not all(stream.is_alive() for stream in streams):
            raise SystemExit(f"{url}: a stream ended before its second chunk.")
        time.sleep(0.01)
    start = time.perf_counter()
    time.sleep(ALONE_S)
    middle = time.perf_counter()
    first_token_s = []
    for _ in range(args.prompts):
        sent = time.perf_counter()
        connection, response = ask(url, completion(args.prompt_tokens, max_tokens=1))
        response.read()
        connection.close()
        first_token_s.append(time.perf_counter() - sent)
    end = time.perf_counter()
    time.sleep(0.5)
    for stream in streams:
        stream.is_stopped = True
    for stream in streams:
        stream.join()
    alone, beside = gaps(streams, start, middle), gaps(streams, middle, end)
    p50 = statistics.median(beside)
    p99 = beside[min(len(beside) - 1, int(0.99 * len(beside)))]
    print(
        f"{name:10} alone p50 {statistics.median(alone):7.0f} ms   beside p50 {p50:7.0f}"
        f"   p99 {p99:7.0f}   longest {beside[-1]:7.0f}   ({len(beside)} gaps)"
        f"   prompt answered after {statistics.median(first_token_s):6.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", action="append", required=True, help="NAME=URL")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    for _ in range(args.rounds):
        for server in args.url:
            name, url = server.split("=", 1)
            measure(name, url, args)


if __name__ == "__main__":
    main()
