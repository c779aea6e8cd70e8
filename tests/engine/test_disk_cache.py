"""Blocks on disk: found again after a restart, whole or not at all, and gone when they should."""

import logging
import multiprocessing
import os
import shutil
import stat
import threading
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from block_writer import BLOCK_BYTES, content, write_until_killed
from disk_engine import (
    BLOCK_SIZE,
    FULL,
    READ_ONLY,
    answers,
    disk_engine,
    expected,
    held_up,
    keep,
    requests,
    stored,
)
from driver import Outcome, make_request, run_all, sort_events
from tests.doubles.disk import NotHere, block_paths, damage, fill, small_disk

from llamastream.engine import spill
from llamastream.engine.block_files import BlockFiles
from llamastream.types import Finished

CONVERSATIONS = range(4)
WHOLE_BLOCKS = 64  # of a prompt of 70 tokens: 4 blocks, all but the last tokens


def num_cached(outcome: Outcome) -> int:
    assert isinstance(outcome.end, Finished)
    return outcome.end.num_cached_tokens


@pytest.mark.parametrize("kind", ["cpu-int8", "cpu-float32"])
def test_the_next_start_finds_what_was_computed_and_draws_the_same(
    tmp_path: Path, kind: str
) -> None:
    first = keep(tmp_path, CONVERSATIONS, kind=kind)
    with disk_engine(tmp_path, kind=kind) as (engine, disk):
        turn = make_request("next", [*requests([0])[0].prompt_ids, *first["resp_0"], 5, 6])
        assert num_cached(run_all(engine, [turn])["next"]) == 96  # of 102 tokens
        outcomes = run_all(engine, requests(CONVERSATIONS))
        assert disk.status().num_read == 6 + 4 * 3
    assert answers(outcomes) == first == expected(CONVERSATIONS, kind)
    assert {num_cached(one) for one in outcomes.values()} == {WHOLE_BLOCKS}


def test_an_answer_that_is_resumed_finds_its_own_beginning(tmp_path: Path) -> None:
    whole = keep(tmp_path, [0])["resp_0"]
    with disk_engine(tmp_path) as (engine, disk):
        resumed = make_request(
            "resp_0", requests([0])[0].prompt_ids, output_ids=whole[:20], max_tokens=30
        )
        assert run_all(engine, [resumed])["resp_0"].token_ids == whole[20:]
        assert disk.status().num_read == 5  # of 90 tokens


def test_left_to_itself_it_takes_a_tenth_of_what_is_free(tmp_path: Path) -> None:
    files = BlockFiles.open(tmp_path, None)
    files.scan()
    tenth = min(shutil.disk_usage(tmp_path).free // 10, 20 * 2**30)
    assert files.max_bytes == pytest.approx(tenth, rel=0.1)
    files.close()


def test_other_keys_models_and_precisions_find_nothing(tmp_path: Path) -> None:
    keep(tmp_path, [0])
    with disk_engine(tmp_path, model_id="another") as (engine, _):
        assert num_cached(run_all(engine, requests([0]))["resp_0"]) == 0
    with disk_engine(tmp_path, kind="cpu-float32") as (engine, _):
        assert num_cached(run_all(engine, requests([0]))["resp_0"]) == 0
    with disk_engine(tmp_path) as (engine, _):
        assert num_cached(run_all(engine, requests([0], cache_salt=b"key"))["resp_0"]) == 0


def test_only_what_is_stored_is_written_and_only_for_its_owner_to_read(tmp_path: Path) -> None:
    with disk_engine(tmp_path) as (engine, disk):
        pending = disk.owner("conv", "resp_1")
        run_all(engine, requests([0]))
        run_all(engine, [make_request("resp_1", range(50), max_tokens=20, seed=1)])
        assert pending is not None
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]
    keep(tmp_path, [0])
    for path in (tmp_path, *tmp_path.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert path == tmp_path or mode == (0o700 if path.is_dir() else 0o600)


def test_half_of_it_evicted_is_a_miss_and_the_same_answer(tmp_path: Path) -> None:
    keep(tmp_path, CONVERSATIONS)
    size = sum(path.stat().st_size for path in block_paths(tmp_path))
    with disk_engine(tmp_path, max_bytes=size // 2) as (engine, disk):
        outcomes = run_all(engine, requests(CONVERSATIONS))
        assert 0 < disk.status().num_bytes <= size // 2
    assert answers(outcomes) == expected(CONVERSATIONS)
    # Whose turn was longest ago has lost all, and somebody's tail may have gone.
    assert sorted(num_cached(outcomes[f"resp_{k}"]) for k in CONVERSATIONS)[::3] == [
        0,
        WHOLE_BLOCKS,
    ]
    assert sum(path.stat().st_size for path in block_paths(tmp_path)) <= size // 2


def test_damage_in_200_places_is_a_miss_and_never_another_token(tmp_path: Path) -> None:
    keep(tmp_path, CONVERSATIONS)
    right, rng = expected(CONVERSATIONS), Random(1)
    pristine = tmp_path / "0"
    num_damaged = 0
    for round in range(10):
        folder = tmp_path / f"round_{round}"
        shutil.copytree(pristine, folder / "0")
        for _ in range(20):
            damage(block_paths(folder), rng)
        with disk_engine(folder) as (engine, disk):
            assert answers(run_all(engine, requests(CONVERSATIONS))) == right
            num_damaged += disk.status().num_damaged
    assert num_damaged > 20


def test_no_damaged_block_is_taken_for_whole(tmp_path: Path) -> None:
    files, rng = BlockFiles.open(tmp_path, 10**6), Random(2)
    names = [f"{k:064x}" for k in range(8)]
    into = np.zeros(BLOCK_BYTES, np.uint8)
    for _ in range(200):
        for name in names:
            if not files.index.has(name):
                assert files.write("conv", "resp", name, content(name))
        before = {path: path.read_bytes() for path in block_paths(tmp_path)}
        damage(list(before), rng)
        changed = {path.name for path, data in before.items() if path.read_bytes() != data}
        for name in names:
            assert files.read(name, into) == (name not in changed)
            assert name in changed or (into == content(name)).all()
    files.close()


def test_a_writer_killed_at_any_moment_leaves_whole_blocks(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    for _ in range(3):
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=write_until_killed, args=(str(tmp_path), sender))
        process.start()
        num_written = receiver.recv()
        process.kill()
        process.join()
        files = BlockFiles.open(tmp_path, 10**9)  # its lock is free again
        files.scan()
        into = np.zeros(BLOCK_BYTES, np.uint8)
        names = [path.name for path in block_paths(tmp_path)]
        assert len(names) >= num_written
        for name in names:
            assert files.read(name, into) and (into == content(name)).all()
        assert not list(tmp_path.rglob("*.new"))
        files.close()


@pytest.mark.parametrize("files", [FULL, READ_ONLY])
def test_a_disk_that_fails_is_counted_said_once_and_changes_nothing(
    tmp_path: Path, files: type[BlockFiles], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), disk_engine(tmp_path, files=files) as (engine, disk):
        for _ in range(2):
            outcomes = run_all(engine, [stored(disk, one) for one in requests(CONVERSATIONS)])
            assert answers(outcomes) == expected(CONVERSATIONS)
    assert disk.status().num_failures == 1  # then it is left alone for a while
    assert disk.status().num_dropped > 0 == disk.status().num_written
    assert len(caplog.records) == 1
    assert not block_paths(tmp_path) and not list(tmp_path.rglob("*.new"))


def test_a_full_disk_gets_space_back(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "small", 400_000) as folder:
            keep(folder, range(8))
            before = len(block_paths(folder))
            fill(folder / "others")
            assert keep(folder, range(8, 12)) == expected(range(8, 12))
            assert len(block_paths(folder)) < before
            assert keep(folder, range(8)) == expected(range(8))
    except NotHere as problem:
        pytest.skip(str(problem))


def test_a_folder_that_was_removed_is_a_miss_and_made_anew(tmp_path: Path) -> None:
    keep(tmp_path, [0, 1])
    with disk_engine(tmp_path) as (engine, disk):
        shutil.rmtree(tmp_path)
        asked = [stored(disk, one) for one in requests([0, 1])]
        outcomes = run_all(engine, asked)
        assert answers(outcomes) == expected([0, 1])
        assert disk.status().num_failures == 0
    with disk_engine(tmp_path) as (engine, _):
        assert num_cached(run_all(engine, requests([0]))["resp_0"]) == WHOLE_BLOCKS


def test_two_servers_of_one_folder_have_one_each(tmp_path: Path) -> None:
    with disk_engine(tmp_path) as (one, disk), disk_engine(tmp_path) as (other, other_disk):
        first = run_all(one, [stored(disk, one) for one in requests(CONVERSATIONS)])
        second = run_all(other, [stored(other_disk, one) for one in requests(CONVERSATIONS)])
        assert answers(first) == answers(second) == expected(CONVERSATIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    assert {path.parts[-3] for path in block_paths(tmp_path)} == {"0", "1"}


def test_what_is_forgotten_leaves_nothing_and_nobody_else_loses_anything(tmp_path: Path) -> None:
    with disk_engine(tmp_path) as (engine, disk):
        request = requests([0])[0]
        run_all(engine, [stored(disk, request, "conv_a")])
        again = make_request("resp_9", request.prompt_ids, max_tokens=3)
        run_all(engine, [stored(disk, again, "conv_b")])
        disk.forget("nobody").result(60)  # behind what was to be written
        assert disk.ids() == {"conv_a", "conv_b", "resp_0", "resp_9"}
        disk.forget("resp_0").result(60)  # an answer that had a part in conv_a
        assert {path.parent.name for path in block_paths(tmp_path)} == {"conv_b"}
        assert disk.ids() == {"conv_b", "resp_9"} and disk.status().num_bytes > 0
        disk.forget("conv_b").result(60)
        assert not block_paths(tmp_path) and disk.status().num_bytes == 0
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]


def test_what_is_forgotten_amid_its_answer_is_written_no_more(tmp_path: Path) -> None:
    with disk_engine(tmp_path) as (engine, disk):
        request = stored(disk, requests([0])[0], "conv_a")
        engine.add(request)
        for _ in range(10):
            engine.step()
        disk.forget("conv_a").result(60)
        run_all(engine)
        later = stored(disk, requests([1])[0], "conv_a")  # the conversation goes on
        run_all(engine, [later])
    assert {path.parent.name for path in block_paths(tmp_path)} == {"conv_a"}
    with disk_engine(tmp_path) as (engine, disk):
        assert disk.ids() == {"conv_a", "resp_1"}
        assert num_cached(run_all(engine, requests([0]))["resp_0"]) == 0
        assert num_cached(run_all(engine, requests([1]))["resp_1"]) == WHOLE_BLOCKS


def test_ids_that_are_no_names_of_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    with disk_engine(tmp_path / "kv") as (_, disk):
        assert disk.owner("../..", "resp") is None and disk.owner("conv", "a/b") is None
        disk.forget("../..").result(60)
    assert (tmp_path / "precious").exists()


def test_what_may_be_kept_for_a_day_goes_then_and_alone(tmp_path: Path) -> None:
    with disk_engine(tmp_path) as (engine, disk):
        owner = disk.owner("conv", "resp_0", "24h")
        assert owner is not None
        owner.confirm()
        run_all(engine, [replace(make_request("resp_0", range(60), max_tokens=8), owner=owner)])
        run_all(engine, [stored(disk, one, "conv") for one in requests([1])])
    for path in (tmp_path / "0").rglob("*.id"):
        os.utime(path, (0, 0))
    with disk_engine(tmp_path) as (_, disk):
        disk.expire()
        disk.forget("none").result(60)  # behind it
    assert {path.parent.name for path in block_paths(tmp_path)} == {"conv"}


def test_a_sequence_waits_for_the_disk_in_the_queue_and_no_step_does(tmp_path: Path) -> None:
    keep(tmp_path, [0])
    gate, asked = threading.Event(), threading.Event()
    with disk_engine(tmp_path, files=held_up(gate, asked.set)) as (engine, _):
        outcomes: dict[str, Outcome] = {"resp_0": Outcome(), "resp_1": Outcome()}
        for request in requests([0, 1]):
            engine.add(request)
        while outcomes["resp_1"].end is None:
            sort_events(engine.step(), outcomes)
            engine.check_integrity()
        assert asked.is_set() and not outcomes["resp_0"].tokens
        gate.set()
        run_all(engine, outcomes=outcomes)
    assert answers(outcomes) == expected([0, 1])
    assert num_cached(outcomes["resp_0"]) == WHOLE_BLOCKS


@pytest.mark.parametrize("by", ["cancel", "failure"])
def test_a_sequence_may_end_while_it_is_read(tmp_path: Path, by: str) -> None:
    keep(tmp_path, [0])
    gate = threading.Event()
    with disk_engine(tmp_path, files=held_up(gate, lambda: None)) as (engine, _):
        engine.add(requests([0])[0])
        if by == "cancel":
            engine.cancel("resp_0")
            gate.set()
        else:
            threading.Timer(0.05, gate.set).start()
            engine.fail_all(RuntimeError("gone"))  # type: ignore[arg-type]
        assert len(engine.step()) == 1 and not engine.has_work
        assert answers(run_all(engine, requests([0]))) == expected([0])


def test_a_full_cache_in_memory_reads_no_more_than_it_can_hold(tmp_path: Path) -> None:
    keep(tmp_path, CONVERSATIONS)
    with disk_engine(tmp_path, num_blocks=9) as (engine, _):  # a sequence has 7
        assert answers(run_all(engine, requests(CONVERSATIONS))) == expected(CONVERSATIONS)


def test_where_too_many_wait_to_be_written_the_rest_is_offered_later_or_dropped(
    tmp_path: Path,
) -> None:
    with disk_engine(tmp_path) as (engine, disk):
        while not disk._buffers.empty():
            disk._buffers.get()
        assert answers(run_all(engine, [stored(disk, requests([0])[0])])) == expected([0])
        assert disk.status().num_dropped == 6  # of 99 tokens, all full blocks
        disk._buffers.put(np.empty(engine._runner.block_bytes, np.uint8))
        run_all(engine, [stored(disk, requests([0])[0])])
    assert block_paths(tmp_path)


def test_what_a_step_filled_is_copied_behind_it_however_much_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "STEP_BYTES", 1)
    with disk_engine(tmp_path) as (engine, disk):
        engine.add(stored(disk, requests([0])[0]))
        while not engine.step():
            pass
        disk.forget("none").result(60)  # behind what waits to be written
        assert len(block_paths(tmp_path)) == 70 // BLOCK_SIZE
