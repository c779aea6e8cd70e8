"""What structured output promises, on the demo model: verdicts, validity, sameness and cost.

    python bench/structured_output.py verdicts SCHEMAS    what is enforced, refused, accepted
    python bench/structured_output.py answers SCHEMAS --url URL --count 300
    python bench/structured_output.py same SCHEMAS        drafts, company, threads, resumed, ...
    python bench/structured_output.py kill SCHEMAS        kill -9 at every token, resumed
    python bench/structured_output.py cost SCHEMAS        mask + apply + consume, compile
    python bench/structured_output.py speed --url ours=URL --url other=URL
    python bench/structured_output.py bystander           beside a mask of 200 ms
    python bench/structured_output.py hostile

SCHEMAS: a file with one {"name", "schema", "tests": [{"data", "valid"}]} a line, as they are in
guidance-ai/jsonschemabench. Each command ends with a line of JSON.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np

from llamastream.app import Assembly, assemble, find_model, join_store, load_runner
from llamastream.config import ModelSettings, StoreSettings
from llamastream.engine import _core
from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.runner import SamplingBatch, StepResult
from llamastream.engine.speculation import Speculation
from llamastream.errors import InvalidRequest
from llamastream.generation import NewAnswer
from llamastream.generation.grammars import vocabulary_of
from llamastream.grammar import Compiled, Grammars
from llamastream.sampling import SamplingParams
from llamastream.settings import default_data_dir
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.types import (
    ChatRequest,
    Constraint,
    Failed,
    GenerationRequest,
    GrammarKind,
    GrammarSpec,
    Message,
    Token,
)

MODES = {
    "off": {"looks_up": False, "forces": False},
    "lookup": {"looks_up": True, "forces": False},
    "forced": {"looks_up": False, "forces": True},
    "both": {"looks_up": True, "forces": True},
}
PROMPT = "Answer with JSON that fits this schema: "
OPEN_ENDED = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 40,
            "items": {
                "type": "object",
                "properties": {
                    "first_name": {"type": "string", "maxLength": 12},
                    "year_of_birth": {"type": "integer", "minimum": 1900, "maximum": 2025},
                    "occupation": {"type": "string", "maxLength": 20},
                    "is_member": {"type": "boolean"},
                },
                "required": ["first_name", "year_of_birth", "occupation", "is_member"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}


class Demo:
    """The model's vocabulary, grammars and prompts; the runner is made per measurement."""

    def __init__(self) -> None:
        self.settings = ModelSettings(data_dir=default_data_dir())
        self.checkpoint = find_model(self.settings)
        self.tokenizer = Tokenizer(self.checkpoint.tokenizer)
        self.prompts = PromptBuilder.from_config(self.tokenizer, None)
        self.grammars = Grammars(
            lambda: vocabulary_of(self.tokenizer, self.checkpoint.config.vocab_size)
        )

    def compile(self, schema: Any, *, strict: bool = True) -> Compiled:
        spec = GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(schema), strict)
        return self.grammars.compile(spec, True)

    def request(self, name: str, schema: Any, **sampling: Any) -> GenerationRequest:
        text = json.dumps(schema)[:1500]
        params = SamplingParams(
            **{"max_tokens": 120, "logprobs": 2, "seed": 1} | sampling,
            stop_token_ids=frozenset(self.tokenizer.eos_token_ids),
        )
        ids = self.prompts.build((Message("user", PROMPT + text),))
        return GenerationRequest(name, ids, params, grammar=self.compile(schema))

    def engine(self, mode: str, *, isa: str = "auto", **options: Any) -> LLMEngine:
        settings = self.settings.model_copy(update=options | {"isa": isa})
        config = settings.engine_config()
        runner = load_runner(self.checkpoint, settings, "cpu")
        return LLMEngine(runner, config, speculation=Speculation(config, **MODES[mode]))


def cases(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def told(result: dict[str, Any]) -> None:
    print(json.dumps(result))


def quantiles(seconds: Iterable[float], unit: float) -> dict[str, float]:
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        name: round(ordered[min(int(len(ordered) * q), len(ordered) - 1)] / unit, 2)
        for name, q in at.items()
    }


def allowed_ids(constraint: Constraint) -> set[int]:
    words = np.frombuffer(constraint.mask(), np.uint8)
    return set(np.flatnonzero(np.unpackbits(words, bitorder="little")).tolist())


def verdicts(args: argparse.Namespace) -> None:
    demo, result = Demo(), dict[str, Any]()
    demo.compile({})
    for strict in (True, False):
        counts, times, reasons = Counter[str](), list[float](), Counter[str]()
        for case in cases(args.schemas):
            start_s = time.perf_counter()
            try:
                grammar = demo.compile(case["schema"], strict=strict)
            except InvalidRequest as error:
                counts["refused"] += 1
                reasons[error.message.partition(": ")[2][:60]] += 1
                continue
            finally:
                times.append(time.perf_counter() - start_s)
            counts["compiled"] += 1
            for test in case["tests"]:
                text = json.dumps(test["data"], separators=(",", ":"), ensure_ascii=False)
                ids = demo.tokenizer.encode(text, add_bos=False)
                constraint = grammar.start()
                accepted = constraint.num_allowed(ids) == len(ids)
                if accepted:
                    constraint.append(ids)
                    accepted = set(demo.tokenizer.eos_token_ids) <= allowed_ids(constraint)
                kind = "valid" if test["valid"] else "invalid"
                counts[f"{kind} accepted" if accepted else f"{kind} refused"] += 1
                if accepted and not test["valid"]:
                    noticed = any("does not fit" in said for said in grammar.warnings(text))
                    counts["invalid accepted, told at the end"] += noticed
        for reason, count in reasons.most_common(8):
            print(f"  {count:4d} {reason}")
        result["strict" if strict else "relaxed"] = dict(counts) | {
            "compile_ms": quantiles(times, 1e-3)
        }
    told(result)


async def _answer(
    client: httpx.AsyncClient, route: str, case: dict[str, Any], temperature: float
) -> tuple[str, str]:
    """(text, how it ended): stop, length, refused or an error."""
    prompt = PROMPT + json.dumps(case["schema"])[:1500]
    common = {"model": "demo", "temperature": temperature, "seed": 7}
    shape = {"name": "answer", "schema": case["schema"], "strict": True}
    if route == "chat":
        body = common | {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 160,
            "response_format": {"type": "json_schema", "json_schema": shape},
        }
        answer = await client.post("/v1/chat/completions", json=body)
    else:
        body = common | {
            "input": prompt,
            "store": False,
            "max_output_tokens": 160,
            "text": {"format": {"type": "json_schema", **shape}},
        }
        answer = await client.post("/v1/responses", json=body)
    found = answer.json()
    if answer.status_code != 200:
        message = found["error"]["message"]
        return message, "refused" if "cannot be enforced" in message else "error"
    if route == "chat":
        choice = found["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]
    text = found["output"][0]["content"][0]["text"]
    return text, "stop" if found["status"] == "completed" else "length"


async def answers(args: argparse.Namespace) -> None:
    """Each schema over both routes, greedy and at temperature 1."""
    counts, seats = Counter[str](), asyncio.Semaphore(16)
    chosen = cases(args.schemas)
    chosen = chosen[:: max(len(chosen) // args.count, 1)][: args.count]
    async with httpx.AsyncClient(base_url=args.url[0].partition("=")[2] or args.url[0]) as client:
        client.timeout = httpx.Timeout(600)

        async def ask(case: dict[str, Any], route: str, temperature: float) -> None:
            async with seats:
                text, end = await _answer(client, route, case, temperature)
            counts[f"{route} {temperature} {end}"] += 1
            if end == "stop":
                try:
                    jsonschema.validate(json.loads(text), case["schema"])
                except (ValueError, jsonschema.ValidationError) as error:
                    counts["INVALID"] += 1
                    print(case["name"], text[:200], str(error)[:200])
            elif end == "error":
                print(case["name"], text[:200])

        await asyncio.gather(
            *(
                ask(c, route, t)
                for c in chosen
                for route in ("chat", "responses")
                for t in (0.0, 1.0)
            )
        )
    told({"schemas": len(chosen), **dict(sorted(counts.items()))})


Drawn = dict[str, list[tuple[Any, ...]]]


def run(engine: LLMEngine, requests: Sequence[GenerationRequest]) -> tuple[Drawn, int]:
    """What each drew, with log-probabilities, and how many steps that took."""
    drawn, num_steps = defaultdict[str, list[tuple[Any, ...]]](list), 0
    for request in requests:
        engine.add(request)
    while engine.has_work:
        events = engine.step()
        num_steps += bool(events)
        for event in events:
            if isinstance(event, Token):
                drawn[event.request_id].append(event[1:])
            elif isinstance(event, Failed):
                raise event.error
    return dict(drawn), num_steps


def same(args: argparse.Namespace) -> None:
    """One request at a time without drafts on one thread is the yardstick."""
    demo, result = Demo(), dict[str, Any]()
    chosen, requests = cases(args.schemas), list[GenerationRequest]()
    random.Random(3).shuffle(chosen)
    for case in chosen:
        if len(requests) == args.count:
            break
        if len(json.dumps(case["schema"])) > 1200:
            continue
        try:
            number = len(requests)
            options = {"temperature": float(number % 2), "seed": number}
            requests.append(demo.request(str(number), case["schema"], **options))
        except InvalidRequest:
            continue
    engine = demo.engine("off", threads=1)
    expected: Drawn = {}
    for request in requests:
        expected |= run(engine, [request])[0]
    engine.close()
    result["answers"] = len(requests)
    result["tokens"] = sum(map(len, expected.values()))

    def check(name: str, engine: LLMEngine, groups: Iterable[Sequence[GenerationRequest]]) -> None:
        steps = 0
        for group in groups:
            drawn, num_steps = run(engine, group)
            steps += num_steps
            for request in group:
                if request.request_id not in expected:
                    continue
                known, most = len(request.output_ids), request.sampling.max_tokens
                wanted = expected[request.request_id][known:most]
                assert drawn.get(request.request_id, []) == wanted, f"{name}: {request.request_id}"
        status = engine.status()
        result[name] = {
            "steps": steps,
            "drafts": status.num_drafted_tokens,
            "right": status.num_accepted_tokens,
        }
        print(name, result[name], flush=True)
        engine.close()

    alone = [[request] for request in requests]
    others = [
        replace(one, request_id=f"x{k}", sampling=replace(one.sampling, seed=k + 99, max_tokens=60))
        for k in range(32 - len(requests))
        for one in [requests[k % len(requests)]]
    ]
    if "alone" in args.parts:
        for mode in MODES:
            check(f"alone, {mode}", demo.engine(mode, threads=2), alone)
    if "beside" in args.parts:
        for mode in ("off", "both"):
            check(f"beside 31, {mode}", demo.engine(mode, threads=2), [[*requests, *others]])
    if "isa" in args.parts:
        for isa in _core.available_isas():
            few = alone[: max(len(alone) // 4, 1)] if isa == "portable" else alone
            check(f"isa {isa}", demo.engine("both", isa=isa), few)
    if "preempted" in args.parts:
        check(
            "preempted",
            demo.engine("both", kv_cache_gib=args.kv_gib, max_model_len=1024),
            [requests],
        )
    if "resumed" in args.parts:  # at every token, and on for a few
        check("resumed", demo.engine("both"), _resumed(requests[: args.resumed], expected))
    told(result)


def _resumed(
    requests: Sequence[GenerationRequest], expected: Drawn
) -> Iterator[list[GenerationRequest]]:
    for request in requests:
        drawn = [token[1] for token in expected[request.request_id]]
        for known in range(len(drawn)):
            most = min(known + 4, request.sampling.max_tokens or known + 4)
            sampling = replace(request.sampling, max_tokens=most)
            yield [replace(request, output_ids=drawn[:known], sampling=sampling)]


async def _child(args: argparse.Namespace) -> None:
    """Begins or goes on with the answers, and kills itself when each has one token more."""
    settings = ModelSettings(data_dir=default_data_dir(), speculation="off", threads=1)
    assembly: Assembly = assemble(settings)
    stored = join_store(
        assembly.answers, StoreSettings(store=f"sqlite:///{args.folder}/db"), data_dir=args.folder
    )
    await assembly.answers.start()
    await assembly.engine.ready()
    await stored.start()
    found = []
    for number, case in enumerate(cases(args.schemas)[: args.count]):
        id = f"answer-{number}"
        if args.first:
            request = _kept(case["schema"], number)
            new = NewAnswer(id, {"model": "demo"}, store=True, background=True)
            found.append(await stored.create(request, new))
        else:
            found.append(await stored.find(id, scope=""))
    begun = [generation.num_public for generation in found]
    while True:
        left = [(g, n) for g, n in zip(found, begun, strict=True) if g.end is None]
        if not left:
            break
        if not args.to_end and all(g.num_public > n for g, n in left):
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0)
    told({"texts": [g.log.text() for g in found], "errors": [g.end and g.end.error for g in found]})
    await assembly.answers.stop()
    await stored.stop()


def _kept(schema: Any, number: int) -> ChatRequest:
    return ChatRequest(
        (Message("user", PROMPT + json.dumps(schema)[:1000]),),
        sampling=SamplingParams(max_tokens=40, temperature=float(number % 2), seed=number),
        grammar=GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(schema)),
    )


def kill(args: argparse.Namespace) -> None:
    """Answers whose server is killed at each of their tokens, and the same undisturbed."""
    demo, chosen = Demo(), list[dict[str, Any]]()
    for case in cases(args.schemas):
        try:
            demo.compile(case["schema"])
        except InvalidRequest:
            continue
        if len(json.dumps(case["schema"])) < 1000:
            chosen.append(case)
    chosen = chosen[:: max(len(chosen) // args.count, 1)][: args.count]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "schemas.jsonl"
        file.write_text("\n".join(map(json.dumps, chosen)))

        def child(place: str, *flags: str) -> dict[str, Any] | None:
            (Path(folder) / place).mkdir(exist_ok=True)
            command = [sys.executable, __file__, "child", str(file), "--count", str(args.count)]
            done = subprocess.run(
                [*command, "--folder", f"{folder}/{place}", *flags], stdout=subprocess.PIPE
            )
            if done.returncode == -signal.SIGKILL:
                return None
            assert done.returncode == 0, done.returncode
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found

        whole = child("whole", "--first", "--to-end")
        num_kills, found = 0, child("killed", "--first")
        while found is None:
            num_kills += 1
            found = child("killed")
        assert whole is not None and whole == found, "an answer is another"
        assert not any(whole["errors"]), whole["errors"]
    told({"answers": len(chosen), "kills": num_kills, "equal": True})


def cost(args: argparse.Namespace) -> None:
    """Along answers drawn at random from what is allowed, hot. Applying is the sampler's whole call
    with a mask less the one without, greedy."""
    demo, rng = Demo(), random.Random(1)
    demo.compile({})
    compile_s, mask_s, apply_s, consume_s, all_s = ([] for _ in range(5))  # type: ignore[var-annotated]
    logits = np.random.default_rng(0).standard_normal((1, demo.checkpoint.config.vocab_size))
    logits = logits.astype(np.float32)
    stops = set(demo.tokenizer.eos_token_ids)
    for case in cases(args.schemas)[:: args.every]:
        start_s = time.perf_counter()
        try:
            grammar = demo.compile(case["schema"])
        except InvalidRequest:
            continue
        compile_s.append(time.perf_counter() - start_s)
        constraint = grammar.start()
        for _ in range(60):
            start_s = time.perf_counter()
            mask = constraint.mask()
            mask_s.append(time.perf_counter() - start_s)
            words = np.frombuffer(mask, np.uint32)
            with_mask, without = _sampler_s(logits, words), _sampler_s(logits, None)
            apply_s.append(with_mask - without)
            bits = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
            token_id = int(rng.choice(bits.tolist()))
            if token_id in stops:
                break
            start_s = time.perf_counter()
            constraint.append([token_id])
            consume_s.append(time.perf_counter() - start_s)
            all_s.append(mask_s[-1] + max(apply_s[-1], 0) + consume_s[-1])
    told(
        {
            "tokens": len(mask_s),
            "isa": _core.available_isas()[0],
            "mask_us": quantiles(mask_s, 1e-6),
            "apply_us": quantiles(apply_s, 1e-6),
            "consume_us": quantiles(consume_s, 1e-6),
            "all_us": quantiles(all_s, 1e-6),
            "compile_ms": quantiles(compile_s, 1e-3),
        }
    )


def _sampler_s(logits: np.ndarray, mask: np.ndarray | None) -> float:
    one, none = np.ones(1, np.float32), np.zeros(1, np.int32)
    sampling = SamplingBatch(
        temperature=one * 0,
        top_p=one,
        top_k=none,
        min_p=one * 0,
        repetition_penalty=one,
        presence_penalty=one * 0,
        frequency_penalty=one * 0,
        seed=np.zeros(1, np.uint64),
        position=none,
        num_logprobs=none - 1,
        history_ids=none[:0],
        history_offsets=np.zeros(2, np.int32),
        history_num_prompt=none,
        bias_ids=none[:0],
        bias_values=one[:0],
        bias_offsets=np.zeros(2, np.int32),
        targets=none - 1,
        masks=np.empty((0, 0), np.uint32) if mask is None else mask[None],
        mask_rows=none - (mask is None),
    )
    result = StepResult(
        np.empty(1, np.int32),
        np.empty(1, np.float32),
        np.empty((1, 0), np.int32),
        np.empty((1, 0), np.float32),
        None,
    )
    start_s = time.perf_counter()
    _core.sample(logits, sampling, result, isa="auto")
    return time.perf_counter() - start_s


async def speed(args: argparse.Namespace) -> None:
    """Tokens/s of all streams together with a schema and without, in turns, over chats."""
    result: dict[str, Any] = {}
    for name, url in (pair.split("=", 1) for pair in args.url):
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            rates = defaultdict[tuple[int, bool], list[float]](list)
            for _ in range(args.rounds):
                for streams in (1, 8, 32):
                    for with_schema in (False, True):
                        rate = await _rate(client, streams, with_schema, args.tokens)
                        rates[streams, with_schema].append(rate)
            for streams in (1, 8, 32):
                without, with_it = (statistics.median(rates[streams, k]) for k in (False, True))
                ratio = round(with_it / without, 3)
                result[f"{name} {streams}"] = [round(without), round(with_it), ratio]
                print(name, streams, result[f"{name} {streams}"], flush=True)
    told(result)


async def _rate(
    client: httpx.AsyncClient, streams: int, with_schema: bool, num_tokens: int
) -> float:
    shape = {"name": "people", "schema": OPEN_ENDED, "strict": True}
    common = {"model": "demo", "temperature": 1.0, "max_tokens": num_tokens}
    if with_schema:
        common["response_format"] = {"type": "json_schema", "json_schema": shape}
    else:
        common["ignore_eos"] = True

    async def one(number: int) -> int:
        content = f"List forty people of the year {1900 + number} with their occupations."
        body = common | {"seed": number, "messages": [{"role": "user", "content": content}]}
        answer = await client.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        tokens: int = answer.json()["usage"]["completion_tokens"]
        return tokens

    start_s = time.perf_counter()
    total = sum(await asyncio.gather(*map(one, range(streams))))
    return total / (time.perf_counter() - start_s)


class Slow:
    """Allows all, after 200 ms of work in native code."""

    def __init__(self, vocab_size: int, busy_s: float) -> None:
        self._mask = b"\xff" * (-(-vocab_size // 32) * 4)
        self._busy_s = busy_s

    def start(self) -> Constraint:
        return self

    fork = start

    def append(self, token_ids: Sequence[int]) -> None: ...

    def mask(self) -> bytes:
        until_s, data = time.perf_counter() + self._busy_s, bytes(1 << 20)
        while time.perf_counter() < until_s:
            hashlib.blake2b(data).digest()  # without the interpreter's lock
        return self._mask

    def forced(self) -> list[int]:
        return []

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        return len(token_ids)


def bystander(args: argparse.Namespace) -> None:
    """Gaps between the tokens of one stream: alone, beside another plain one, and beside one whose
    masks take 200 ms; in turns."""
    demo, gaps = Demo(), defaultdict[str, list[float]](list)
    ids = demo.tokenizer.encode("Once upon a time", add_bos=False)
    plain = GenerationRequest("plain", ids, SamplingParams(max_tokens=400, temperature=0.8, seed=1))
    slow = replace(
        plain, request_id="other", grammar=Slow(demo.checkpoint.config.vocab_size, args.busy)
    )
    others = {"alone": [], "plain": [replace(plain, request_id="other")], "slow": [slow]}
    for _ in range(args.rounds):
        for name, company in others.items():
            engine, last_s = demo.engine("off"), 0.0
            for request in (plain, *company):
                engine.add(request)
            is_over = False
            while not is_over:
                events = engine.step()
                now_s = time.perf_counter()
                for event in events:
                    if event.request_id == "plain" and isinstance(event, Token):
                        if event.position > 8:
                            gaps[name].append(now_s - last_s)
                        last_s = now_s
                    is_over |= event.request_id == "plain" and not isinstance(event, Token)
            engine.cancel("other")
            engine.close()
    told({name: quantiles(found, 1e-3) for name, found in gaps.items()})


def hostile(args: argparse.Namespace) -> None:
    sys.path[:0] = [
        str(Path(__file__).parents[1] / "tests" / "grammar"),
        str(Path(__file__).parents[1]),
    ]
    from test_compiling import HOSTILE, first_masks  # the cases are the tests'

    demo, result = Demo(), dict[str, Any]()
    demo.compile({})
    for name, (kind, text) in HOSTILE.items():
        source = text if isinstance(text, str) else json.dumps(text)
        start_s, end = time.perf_counter(), "answered"
        try:
            first_masks(demo.grammars.compile(GrammarSpec(kind, source), True))
        except InvalidRequest as error:
            end = error.message[:90]
        result[name] = [round(time.perf_counter() - start_s, 3), end]
        print(f"{result[name][0]:7.3f} s  {name}: {end}", flush=True)
    told({"slowest_s": max(seconds for seconds, _ in result.values())})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands: dict[str, Callable[[argparse.Namespace], Any]] = {
        "verdicts": verdicts,
        "answers": answers,
        "same": same,
        "kill": kill,
        "child": _child,
        "cost": cost,
        "speed": speed,
        "bystander": bystander,
        "hostile": hostile,
    }
    parser.add_argument("command", choices=commands)
    parser.add_argument("schemas", type=Path, nargs="?")
    parser.add_argument("--url", action="append")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--resumed", type=int, default=4, help="answers that are resumed")
    parser.add_argument("--parts", default="alone,beside,isa,preempted,resumed")
    parser.add_argument("--every", type=int, default=4, help="take each so-manieth schema")
    parser.add_argument("--kv-gib", type=float, default=0.03, help="small: answers are preempted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--busy", type=float, default=0.2, help="seconds of a slow mask")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--to-end", action="store_true")
    args = parser.parse_args()
    done = commands[args.command](args)
    if done is not None:
        asyncio.run(done)


if __name__ == "__main__":
    main()
