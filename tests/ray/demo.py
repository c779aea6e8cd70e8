"""`make cluster-demo`: of three replicas on two nodes one dies under a stream, which goes on.

python -m tests.ray.demo
"""

import os
import time
from pathlib import Path

import httpx

from llamastream.settings import default_data_dir
from tests.doubles.postgres import Postgres
from tests.ray.cluster import busiest, replicas, run_service, running_cluster
from tests.ray.reading import Reading, begin, read

PROMPT, NUM_TOKENS, DIES_AT = "Tell me a long story of a lighthouse.", 600, 150
STARTED_S = time.monotonic()


def say(what: str) -> None:
    print(f"{time.monotonic() - STARTED_S:6.1f} s  {what}", flush=True)


def demo(data_dir: Path) -> None:
    say("starting PostgreSQL, which all replicas share")
    with Postgres.running() as postgres:
        say("starting two Ray nodes on this machine, with Serve behind HAProxy")
        with running_cluster() as url:
            say(f"starting three replicas of the demo model behind {url}")
            run_service(
                model="demo", store=postgres.url, num_replicas=3, num_cpus=1, data_dir=data_dir
            )
            with httpx.Client(base_url=url, timeout=httpx.Timeout(30.0, read=60.0)) as client:
                show(client)
            say("stopping")
    say("done")


def show(client: httpx.Client) -> None:
    say(f"an answer of {NUM_TOKENS} tokens without any trouble, to compare with")
    whole = read(client, begin(client, PROMPT, NUM_TOKENS))
    say("the same request again; the replica that draws it will be killed")
    found = replicas()
    killed: list[int] = []

    def on_text(reading: Reading) -> None:
        if len(reading.numbers) >= DIES_AT and not killed:
            victim = busiest(found)
            killed.append(victim.pid)
            victim.kill()
            say(f"kill -9 {victim.pid}, behind event {reading.last}: ...{reading.text[-60:]!r}")

    torn = read(client, begin(client, PROMPT, NUM_TOKENS), on_text)
    say(
        f"it is whole: {torn.status}, {len(torn.numbers)} events over {torn.num_connections} "
        f"connections, longest pause {torn.longest_pause_s:.1f} s"
    )
    assert torn.numbers == list(range(len(torn.numbers))), "events were lost or repeated"
    assert torn.text == whole.text, "it is another answer"
    say("and the same, character for character, as the one that nothing happened to")


if __name__ == "__main__":
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    demo(default_data_dir())
