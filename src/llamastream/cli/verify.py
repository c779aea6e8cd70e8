"""`llamastream verify`: stored answers drawn again, beside a server that runs or without."""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from llamastream.app import assemble, open_store
from llamastream.cli.options import with_settings
from llamastream.cli.progress import progress_bars
from llamastream.config import ModelSettings, StoreSettings
from llamastream.errors import (
    ConfigError,
    DamagedRecord,
    InvalidRequest,
    NotFound,
    NotVerifiable,
    quoted,
)
from llamastream.generation import Answers, Difference, Verifying
from llamastream.store.store import Store

Named = tuple[str, str]  # an answer's id, and the scope that it belongs to
NONE_VERIFIED = 2


@with_settings(ModelSettings, StoreSettings)
def verify(
    model: ModelSettings,
    store: StoreSettings,
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of stored answers.", metavar="RESPONSE_ID...")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All that are stored.")] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Of all, so many drawn by chance.", metavar="N")
    ] = None,
) -> None:
    """Draw stored answers again, and say which are equal and where others differ.

    A server may be running: the database is only read, and the model is loaded a second time. Ends
    with 0 if all are equal, 1 if one differs, 2 if one that was named, or all, cannot be verified.
    """
    if bool(ids) == all:
        raise ConfigError("Give the ids of stored answers, or --all.")
    if sample is not None and not all:
        raise ConfigError("--sample needs --all.")
    tally = asyncio.run(_verify(model, store, ids, sample))
    for line in tally.different:
        print(line)
    Console().print(tally.table())
    if tally.different or not tally.num_equal:
        raise typer.Exit(1 if tally.different else NONE_VERIFIED)


@dataclass
class Tally:
    num_equal: int = 0
    num_tokens: int = 0
    elapsed_s: float = 0.0
    different: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)  # by reason

    @property
    def num_verified(self) -> int:
        return self.num_equal + len(self.different)

    def table(self) -> Table:
        table = Table("answers", "", box=None)
        in_all = f"{self.num_tokens} tokens, {self.elapsed_s:.1f} s"
        table.add_row(str(self.num_equal), f"equal ({in_all})")
        table.add_row(str(len(self.different)), "different")
        for reason, count in self.refused.most_common():
            table.add_row(str(count), f"not verified: {reason}")
        return table


async def _verify(
    model: ModelSettings, settings: StoreSettings, ids: list[str] | None, sample: int | None
) -> Tally:
    async with await open_store(settings, data_dir=model.data_dir, access="read") as store:
        named = await _named(store, ids)
        with progress_bars() as progress:
            answers = assemble(model, progress=progress).answers
            await answers.start()
            await answers.dispatcher.engine.ready()
        try:
            return await _verify_all(answers, store, named, sample, is_strict=bool(ids))
        finally:
            await answers.stop()


async def _named(store: Store, ids: Sequence[str] | None) -> list[Named]:
    """Those with these ids, or all in a random order. Raises NotFound."""
    ended = await store.prompts.ended()
    if ids is None:
        random.shuffle(ended)
        return ended
    scopes = dict(ended)
    for id in ids:
        if id not in scopes:
            raise NotFound(f"No answer {quoted(id)} is stored, or it has not ended.")
    return [(id, scopes[id]) for id in ids]


async def _verify_all(
    answers: Answers, store: Store, named: Sequence[Named], sample: int | None, *, is_strict: bool
) -> Tally:
    """`sample` of them, if so many can be verified. `is_strict`: raise why one cannot."""
    tally, verifying, start_s = Tally(), Verifying(answers, store), time.perf_counter()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task("Verifying", total=min(len(named), sample or len(named)))
        for id, scope in named:
            if sample is not None and tally.num_verified >= sample:
                break
            try:
                await _verify_one(answers, verifying, id, scope, tally)
                bars.advance(task)
            except (NotVerifiable, InvalidRequest, DamagedRecord) as error:
                if is_strict:
                    raise
                reason = error.reason if isinstance(error, NotVerifiable) else error.code
                tally.refused[reason] += 1
    tally.elapsed_s = time.perf_counter() - start_s
    return tally


async def _verify_one(
    answers: Answers, verifying: Verifying, id: str, scope: str, tally: Tally
) -> None:
    verification = await verifying.begin(id, scope=scope)
    generation = verification.generation
    await generation.over()
    if generation.error is not None:
        raise generation.error
    tally.num_tokens += verification.num_equal
    if verification.difference is None:
        tally.num_equal += 1
    else:
        tally.different.append(_line(answers, id, verification.difference))


def _line(answers: Answers, id: str, difference: Difference) -> str:
    _, position, recorded, drawn = difference
    if recorded is drawn is None:
        return f"{id} has ended as it was stored, but for another reason"
    recorded_text, drawn_text = (_token(answers, token_id) for token_id in (recorded, drawn))
    return f"{id} differs at token {position}: stored {recorded_text}, drawn {drawn_text}"


def _token(answers: Answers, token_id: int | None) -> str:
    if token_id is None:
        return "the end"
    if token_id >= answers.status().vocab_size:
        return str(token_id)
    return f"{token_id} {answers.tokenizer.token_bytes(token_id).decode(errors='replace')!r}"
