"""`llamastream verify`, as a person runs it on the database of a server that runs."""

import json
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path

from tests.api.test_verify import change_ids
from tests.cli.test_commands import (
    STORIES,
    assert_one_line,
    environment,
    needs_stories,
    run,
    serving,
)

__all__ = ["environment"]

MODEL = ("--model", STORIES, "--dtype", "float32", "--chat-template", "llama2")


def ask(url: str, seed: int) -> str:
    """The id of a stored answer."""
    body = {"model": "stories260K", "input": "Once", "seed": seed, "max_output_tokens": 40}
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/responses", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["id"])


@needs_stories
def test_stored_answers_are_verified_beside_the_server(environment: dict[str, str]) -> None:
    folder = Path(environment["LLAMASTREAM_DATA_DIR"])
    with serving(environment, *MODEL) as url:
        ids = [ask(url, seed) for seed in range(4)]
        found = run(environment, "verify", "--all", *MODEL)
        assert found.returncode == 0, found.stderr
        assert "4        equal (160 tokens, " in found.stdout
    change_ids(folder, ids[2], lambda kept: [*kept[:9], kept[9] + 1, *kept[10:]])
    found = run(environment, "verify", ids[0], ids[2], *MODEL)
    assert found.returncode == 1
    assert f"{ids[2]} differs at token 9: stored " in found.stdout and ids[0] not in found.stdout
    with closing(sqlite3.connect(folder / "llamastream.db", isolation_level=None)) as db:
        db.execute("UPDATE responses SET prompt_ids = NULL")
    assert_one_line(run(environment, "verify", ids[1], *MODEL), "is kept without its prompt")
    found = run(environment, "verify", "--all", "--sample", "2", *MODEL)
    assert found.returncode == 2  # all of them, looking for two
    assert "4        not verified: is kept without its prompt" in found.stdout


def test_ids_or_all_of_them(environment: dict[str, str]) -> None:
    assert_one_line(run(environment, "verify"), "--all")
    assert_one_line(run(environment, "verify", "resp_1", "--all"), "--all")
    assert_one_line(run(environment, "verify", "resp_1", "--sample", "3"), "--sample needs --all")
    assert_one_line(run(environment, "verify", "resp_1"), "There is no database")
    run(environment, "db", "upgrade")
    assert_one_line(run(environment, "verify", "resp_1"), "No answer 'resp_1' is stored")
