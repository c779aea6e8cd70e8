"""Joins the layers into a running service. The only place that knows them all.

Knows no command line and no wire format: `cli` and `jina` call it with settings.
"""

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llamastream.config import (
    GIB,
    DataSettings,
    DType,
    EngineSettings,
    ModelSettings,
    StoreSettings,
)
from llamastream.engine.async_engine import AsyncEngine
from llamastream.engine.bandwidth import memory_bandwidth
from llamastream.engine.block_files import BlockFiles, FolderUse, clear, folder_uses
from llamastream.engine.cpu_runner import CpuRunner, num_threads
from llamastream.engine.disk_cache import DiskCache
from llamastream.engine.footprint import Footprint, footprint
from llamastream.engine.gpu.device import choose_device
from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.runner import Runner
from llamastream.engine.trial import try_weights
from llamastream.errors import ConfigError, ModelError, StoreBusy, StoreUnavailable
from llamastream.generation import Answers, Quotas, StoredAnswers, StorePolicy
from llamastream.generation.engine import Engine
from llamastream.generation.receipts import ELSEWHERE, Computation
from llamastream.models import Checkpoint, Progress, open_checkpoint
from llamastream.models.packed import image_path, mark_used, trim
from llamastream.records import ConversationLimits, Retention
from llamastream.text import PromptBuilder, Tokenizer

if TYPE_CHECKING:
    from llamastream.store.store import Access, Store

logger = logging.getLogger(__name__)

DAY_S = 86_400.0
REMOTE = "remote"  # in place of a device
KV_FOLDER = "kv"  # in the data folder
STORE_RETRY_S = 1.0  # between two tries to open the database
WAITING_SAID_EVERY_S = 10.0
PROBE = (
    "Once upon a time, 1234 naïve cafés said: 日本語, and {it} was 🙂."  # tells tokenizers apart
)
ARITHMETIC = 4  # of the CPU core: raise it when the same weights give other logits


class Assembly(NamedTuple):
    """The parts of one running model. The answers own the engine and start and stop it."""

    checkpoint: Checkpoint
    engine: Engine
    answers: Answers


def find_model(
    settings: ModelSettings, progress: Progress | None = None, *, with_weights: bool = True
) -> Checkpoint:
    """Find, and if need be download, the model. Raises ModelError."""
    return open_checkpoint(
        settings.model,
        cache_dir=settings.data_dir / "models",
        revision=settings.revision,
        progress=progress,
        with_weights=with_weights,
    )


def load_runner(
    checkpoint: Checkpoint,
    settings: ModelSettings,
    device: str,
    progress: Progress | None = None,
) -> Runner:
    """Pack the weights, or read them as an earlier start packed them; make room for the cache.

    device: as `choose_device` gives it. On a GPU: store them there. Raises ModelError, also for
    weights that give no numbers.
    """
    config = settings.engine_config()
    if device != "cpu":
        from llamastream.engine.gpu.runner import GpuRunner  # imports torch and triton

        return GpuRunner.load(
            checkpoint.config,
            config,
            checkpoint.tensors,
            device=device,
            progress=_in_bytes(progress, checkpoint),
        )
    image = _image_path(settings, checkpoint)
    runner = CpuRunner.load(
        checkpoint.config,
        config,
        checkpoint.stored_tensors,
        image=image,
        key=checkpoint.fingerprint,
        progress=_in_bytes(progress, checkpoint),
    )
    try_weights(runner)
    mark_used(image)
    most = settings.packed_max_gib
    trim(settings.data_dir, None if most is None else int(most * GIB), keep=image)
    return runner


def footprint_of(checkpoint: Checkpoint, dtype: DType) -> Footprint:
    """What the model takes of memory. Raises ModelError where it does not run at this precision."""
    return footprint(checkpoint.config, {e.name: e.kind for e in checkpoint.entries}, dtype)


def measure_memory(settings: ModelSettings) -> float:
    """Bytes per second that the threads of a runner read together, at most."""
    return memory_bandwidth(num_threads(settings.engine_config()))


def make_prompts(
    checkpoint: Checkpoint, settings: ModelSettings
) -> tuple[Tokenizer, PromptBuilder]:
    """The prompts, and the tokenizer, which has learned from them. Raises ModelError."""
    tokenizer = Tokenizer(checkpoint.tokenizer)
    prompts = PromptBuilder.from_config(
        tokenizer,
        settings.chat_template,
        allow_prompt_tags=settings.allow_prompt_tags,
        tool_format=settings.tool_format,
    )
    return tokenizer, prompts


def assemble(
    settings: ModelSettings,
    *,
    served_model_name: str | None = None,
    progress: Progress | None = None,
    quotas: Quotas | None = None,
    engines: EngineSettings | None = None,
    store: StoreSettings | None = None,
) -> Assembly:
    """Everything but a transport. The weights load on the engine's thread once the service starts.
    `store`: of the answers that will be stored, if any.

    Raises ModelError for whatever can be known before the weights are read, and ConfigError.
    """
    remote = engines if engines is not None and engines.engine_url else None
    if remote is not None:
        remote.check_beside(settings)
    device = choose_device(settings.device) if remote is None else REMOTE
    checkpoint = find_model(settings, progress, with_weights=remote is None)
    tokenizer, prompts = make_prompts(checkpoint, settings)
    model_id = _model_id(checkpoint, settings.dtype, device)
    disk = None if store is None else _open_disk_cache(settings, store, device, model_id)
    engine: Engine
    if remote is not None:
        engine = _remote_engine(remote, settings, checkpoint, tokenizer)
    else:

        def load() -> LLMEngine:
            runner = load_runner(checkpoint, settings, device, progress)
            for warning in (*checkpoint.warnings, *prompts.warnings):
                logger.warning("model %s: %s", checkpoint.name, warning)
            return LLMEngine(runner, settings.engine_config(), disk=disk)

        engine = AsyncEngine(load)
    answers = Answers(
        engine,
        tokenizer,
        prompts,
        model_name=served_model_name or checkpoint.name,
        model_id=model_id,
        sampling=checkpoint.sampling,
        quotas=quotas,
        disk=disk,
    )
    answers.details = {
        "chat_template": prompts.name,
        **({} if remote else _details(checkpoint, settings)),
    }
    return Assembly(checkpoint, engine, answers)


def _details(checkpoint: Checkpoint, settings: ModelSettings) -> dict[str, str | int | None]:
    """What is told of a model that is computed here."""
    return {
        "parameters": checkpoint.num_parameters,
        "precision": settings.dtype,
        "file_precision": checkpoint.dtype,
        "file_format": checkpoint.format,
        "file_bytes": checkpoint.size_bytes,
    }


def _open_disk_cache(
    settings: ModelSettings, store: StoreSettings, device: str, model_id: str
) -> DiskCache | None:
    """None where blocks are not kept. Raises ConfigError where they are asked for and cannot be."""
    size = store.kv_disk_gib
    if size == 0:
        return None
    if device != "cpu" or not settings.prefix_caching:
        if size is not None:
            raise ConfigError(
                "kv_disk_gib is about the prefix cache of a model that this machine's CPU computes:"
                " leave it out, or serve with --device cpu and --prefix-caching."
            )
        return None
    try:
        files = BlockFiles.open(
            settings.data_dir / KV_FOLDER, None if size is None else int(size * GIB)
        )
    except OSError as error:
        logger.warning("KV blocks are not kept on disk: %s", error)
        return None
    return DiskCache(files, model_id)


def kv_folder_uses(data: DataSettings) -> Iterator[FolderUse]:
    """What servers keep of their caches on disk, or have left there."""
    return folder_uses(data.data_dir / KV_FOLDER)


def clear_kv_folders(data: DataSettings) -> int:
    """Remove all of it, but for servers that run; returns how many these are."""
    return clear(data.data_dir / KV_FOLDER)


def join_store(answers: Answers, store: StoreSettings, *, data_dir: Path) -> StoredAnswers:
    """Stored answers on top of `answers`. The database is opened when they start."""
    days = store.retain_days
    policy = StorePolicy(
        grace_s=store.grace,
        may_continue=store.on_store_failure == "continue",
        retention=Retention(
            max_age_s=None if days is None else days * DAY_S,
            max_responses=store.retain_responses,
            max_conversations=store.retain_conversations,
        ),
    )
    open = partial(wait_for_store, store, data_dir=data_dir, model=answers.model_id)
    return StoredAnswers(answers, open, policy)


async def wait_for_store(store: StoreSettings, *, data_dir: Path, model: str = "") -> "Store":
    """Open the database as a server; PostgreSQL once it can be had, and say so while it cannot.

    It may not be up yet, or not have noticed that the last server is gone. SQLite's file is here or
    not. Raises StoreError, or StoreUnavailable and StoreBusy (after `store_wait`).
    """
    clock = asyncio.get_running_loop().time
    deadline, said_s = clock() + store.store_wait, -math.inf
    while True:
        try:
            return await open_store(store, data_dir=data_dir, access="serve", model=model)
        except (StoreUnavailable, StoreBusy) as error:
            left_s = deadline - clock()
            if left_s <= 0 or not store.is_postgres:
                raise
            if clock() - said_s >= WAITING_SAID_EVERY_S:
                said_s = clock()
                logger.warning("waiting for the database, %.0f s more: %s", left_s, error.message)
        await asyncio.sleep(min(STORE_RETRY_S, left_s))


async def open_store(
    store: StoreSettings,
    *,
    data_dir: Path,
    access: "Access",
    model: str = "",
) -> "Store":
    """Open the database. Raises StoreError or StoreUnavailable."""
    # The import takes 0.2 s, in which the weights go on loading.
    module = await asyncio.to_thread(import_module, "llamastream.store.store")
    sqlite_url = import_module("llamastream.store.database").sqlite_url
    opened: Store = await module.Store.open(
        store.store or sqlite_url(data_dir),
        durability=store.durability,
        access=access,
        label=store.server_name,
        model=model,
        limits=ConversationLimits(
            store.max_conversation_items, int(store.max_conversation_mib * 2**20)
        ),
    )
    return opened


def _remote_engine(
    engines: EngineSettings, settings: ModelSettings, checkpoint: Checkpoint, tokenizer: Tokenizer
) -> Engine:
    """What computes on other machines, and what is not promised of it."""
    # Deferred: who computes here needs no client, whose import takes 0.1 s.
    from llamastream.engine.remote.remote_engine import RemoteEngine
    from llamastream.engine.remote.replica import ProbeText, Replica
    from llamastream.engine.remote.replicas import Replicas

    logger.warning(
        "engines at %s compute: an interrupted answer goes on at its next token, but the same "
        "request need not give the same tokens, and structured output, tools and prompt_logprobs "
        "are refused (docs/remote-engines.md)",
        ", ".join(engines.engine_url),
    )
    probe = ProbeText(PROBE, tokenizer.encode(PROBE, add_bos=False))
    replicas = [Replica(url, engines.engine_api_key, probe) for url in engines.engine_url]
    vocab_size = checkpoint.config.vocab_size
    return RemoteEngine(Replicas(replicas), settings.engine_config(), vocab_size=vocab_size)


def _model_id(checkpoint: Checkpoint, dtype: str, device: str) -> str:
    """Equal where the same request gives the same tokens: what a stored answer may go on with.

    Of engines on other machines nothing is known but that their ids are those of our tokenizer.
    """
    if device == REMOTE:
        digest = hashlib.sha256(checkpoint.tokenizer.tokenizer_json.encode())
        return Computation(digest.hexdigest()[:32], ELSEWHERE).model_id
    arithmetic = str(ARITHMETIC) if device == "cpu" else "gpu"
    return Computation(checkpoint.content_digest(), dtype, arithmetic).model_id


def _in_bytes(
    progress: Progress | None, checkpoint: Checkpoint
) -> Callable[[int, int], None] | None:
    """The runner counts tensors; people read bytes."""
    if progress is None:
        return None
    size = checkpoint.size_bytes
    return lambda done, total: progress("Packing weights", size * done // total, size)


def packed_bytes(checkpoint: Checkpoint, settings: ModelSettings) -> int:
    """Size of the weights in memory. Raises ModelError before the first start has packed them."""
    path = _image_path(settings, checkpoint)
    try:
        return path.stat().st_size
    except OSError as error:
        raise ModelError(
            f"{path}, the packed weights of {checkpoint.name}, cannot be read: {error.strerror}. "
            "`llamastream serve` writes them when it starts."
        ) from error


def _image_path(settings: ModelSettings, checkpoint: Checkpoint) -> Path:
    return image_path(settings.data_dir, checkpoint.name, checkpoint.fingerprint, settings.dtype)
