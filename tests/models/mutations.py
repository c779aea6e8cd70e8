"""Model files as disks, networks and strangers leave them: each kind of file, damaged by a seed.

`python -m tests.models.mutations --count 150` damages each kind of file 150 times, opens each model
in a process of its own and says what came: one line and exit code 2, or a model that runs.
"""

import argparse
import copy
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file
from tests.models.group_packers import gptq, random_codes
from tests.models.weights_builders import CONFIG, random_tensors, write_folder, write_gguf

from llamastream.cli.main import run

TOO_SHORT = "maximum context length"  # of a model that runs, for what is asked here
PROCESSES = multiprocessing.get_context("forkserver")
TEMPLATE = (
    "{% for m in messages %}{{ bos_token }}{{ m['role'] + ' ' + m.content | trim }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}a{% endif %}"
)
PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{b:02X}>" for b in range(256)),
    "\u2581",
    *"aeinorst",
    "an",
]
SHAPE = {**CONFIG, "vocab_size": len(PIECES), "rope_scaling": {"type": "linear", "factor": 2.0}}
KINDS = (
    "gguf",
    "safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "generation_config.json",
    "added_tokens.json",
    "index",
    "template",
    "gptq",
    "gptq config.json",
)
SETTINGS = {
    "tokenizer_class": "LlamaTokenizer",
    "legacy": False,
    "add_bos_token": True,
    "bos_token": {"content": "<s>", "special": True},
    "eos_token": "</s>",
    "added_tokens_decoder": {str(len(PIECES)): {"content": "<|im_end|>", "special": True}},
    "chat_template": [{"name": "default", "template": TEMPLATE}],
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}
GENERATION = {"eos_token_id": [2], "temperature": 0.7, "top_p": 0.9, "top_k": -1, "do_sample": True}
OTHER_KEYS = (
    "general.alignment general.architecture llama.attention.head_count split.count "
    "llama.attention.head_count_kv llama.attention.key_length llama.block_count "
    "llama.attention.layer_norm_rms_epsilon llama.context_length llama.embedding_length "
    "llama.feed_forward_length llama.rope.scaling.factor llama.rope.scaling.type llama.vocab_size "
    "tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.model"
).split()
# What a number, a text or a list of a JSON file becomes.
NESTED = "[" * 100_000
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 3, 2**31 - 1, 2**31, 2**63, 2**64, 10**400, 1e308, -0.5, 1e-320),
    *("", "a", "\0", "\ud800", "<s>", "x" * 5000, [], [[]], [None], [1] * 3000, {}, {"a": {}}),
    *({"content": 7}, {"content": "<s>", "id": 2**40}, [{"content": "\u2581"}], float("nan")),
)


class Damaged(NamedTuple):
    """A model with one damaged file, and what to give `--model`."""

    kind: str
    seed: int
    path: Path


def damaged(kind: str, seed: int, parent: Path) -> Damaged:
    """Write the model of `seed` below `parent`. The same seed gives the same bytes."""
    draw = random.Random(f"{kind}-{seed}")
    folder = parent / f"{kind}-{seed}"
    if kind == "gguf":
        folder.mkdir()
        file = folder / "m.gguf"
        _write_gguf(file, draw)
        path = file
    else:
        file = _write_folder(folder, kind)
        path = folder
    content = file.read_bytes()
    if kind != "template" and content[:1] == b"{" and draw.random() < 0.6:
        file.write_text(mutate_json(content.decode(), draw))
    else:
        file.write_bytes(mutate_bytes(content, draw))
    return Damaged(kind, seed, path)


def _write_folder(folder: Path, kind: str) -> Path:
    """A whole model; the file of it that is of `kind`."""
    files: dict[str, Any] = {
        "tokenizer.json": None if kind in ("tokenizer.model", "added_tokens.json") else TOKENIZER,
        "tokenizer_config.json": SETTINGS,
        "generation_config.json": GENERATION,
        "added_tokens.json": {"<|im_end|>": len(PIECES)},
    }
    if kind == "template":
        files["chat_template.jinja"] = TEMPLATE
    shape: dict[str, Any] = {**SHAPE, "vocab_size": len(PIECES) + 1}
    tensors = None
    if kind.startswith("gptq"):
        shape |= {"hidden_size": 32, "intermediate_size": 64, "quantization_config": GPTQ}
        tensors = _gptq_tensors(shape)
    write_folder(folder, config=shape, tensors=tensors, files=files)
    if files["tokenizer.json"] is None:
        (folder / "tokenizer.model").write_bytes(_sentencepiece_model())
    names = {"safetensors": "model.safetensors", "template": "chat_template.jinja"}
    names |= {"gptq": "model.safetensors", "gptq config.json": "config.json"}
    names["index"] = "model.safetensors.index.json"
    if kind == "index":
        _split(folder)
    return folder / names.get(kind, kind)


def _gptq_tensors(shape: dict[str, Any]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    order = {size: rng.permutation(size) for size in (32, 64)}
    tensors: dict[str, Any] = {}
    for name, values in random_tensors(shape).items():
        if ".layers." in name and values.ndim == 2:
            codes = random_codes(*values.shape, 32, rng, order[values.shape[1]])
            tensors |= gptq(name.removesuffix(".weight"), codes)
        else:
            tensors[name] = values
    return tensors


TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": i, "content": text, "special": True, "normalized": False, "single_word": False,
         "lstrip": False, "rstrip": False}
        for i, text in [*enumerate(["<unk>", "<s>", "</s>"]), (len(PIECES), "<|im_end|>")]
    ],
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
    "pre_tokenizer": None,
    "post_processor": {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True,
              "byte_fallback": True, "merges": ["a n"],
              "vocab": {text: i for i, text in enumerate(PIECES)}},
}  # fmt: skip


def _sentencepiece_model() -> bytes:
    """The protobuf that sentencepiece writes: of each piece its text, score and kind."""

    def field(number: int, wire: int, body: bytes) -> bytes:
        return bytes([number << 3 | wire]) + body

    def text(number: int, body: bytes) -> bytes:
        size = len(body)
        return field(
            number,
            2,
            (bytes([size]) if size < 128 else bytes([size % 128 + 128, size // 128])) + body,
        )

    out = b""
    for index, piece in enumerate(PIECES):
        kind = 2 if index == 0 else 3 if index < 3 else 6 if index < 259 else 1
        score = b"\0\0\0\0" if kind != 1 else index.to_bytes(2, "little") + b"\x80\xbf"
        out += text(1, text(1, piece.encode()) + field(2, 5, score) + field(3, 0, bytes([kind])))
    return out + text(2, field(3, 0, b"\2")) + text(3, field(3, 0, b"\1"))


def _split(folder: Path) -> None:
    tensors = random_tensors({**SHAPE, "vocab_size": len(PIECES) + 1})
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_gguf(file: Path, draw: random.Random) -> None:
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(PIECES) - 259)]
    keys: dict[str, Any] = {
        "general.name": "tiny",
        "tokenizer.ggml.tokens": PIECES,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(n) for n in range(len(PIECES) - 259)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.chat_template": TEMPLATE,
        "llama.rope.freq_base": 10000.0,
    }
    if draw.random() < 0.3:
        byte_level = ["<unk>", "<s>", "</s>", *(chr(0x100 + n) for n in range(len(PIECES) - 3))]
        keys |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": byte_level}
        keys |= {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.merges": ["\u0100 \u0101"]}
        keys |= {"tokenizer.ggml.token_type": [3] * 3 + [1] * (len(PIECES) - 3)}
    if draw.random() < 0.4:  # a whole file with one odd value
        name = draw.choice([*sorted(keys), *OTHER_KEYS])
        odd = [v for v in VALUES if _fits_gguf(v)]
        odd += [0.0, float("inf"), 2**32 - 1, [1, 2], ["\x00"], [1.5]]
        if name == "general.architecture":  # the writer takes no other
            odd = [v for v in odd if isinstance(v, str)]
        keys[name] = draw.choice(odd)
    write_gguf(file, config=SHAPE, metadata=keys)


def _fits_gguf(value: Any) -> bool:
    if isinstance(value, float):
        return not abs(value) > 3e38  # of 32 bits; NaN is one
    if isinstance(value, int):
        return 0 <= value < 2**32
    return isinstance(value, str) and "\ud800" not in value


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    head = min(len(data), draw.choice((64, 512, 20_000, len(data))))
    for _ in range(draw.choice((1, 1, 2, 8, 40))):
        at = draw.randrange(max(1, head))
        size = draw.choice((1, 1, 2, 8, 100))
        match draw.choice(("flip", "noise", "cut", "insert", "drop", "huge", "zero", "copy")):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case "noise":
                data[at : at + size] = draw.randbytes(size)
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = draw.randbytes(size)
            case "drop":
                del data[at : at + size]
            case "huge":
                data[at : at + 8] = (2 ** draw.choice((31, 32, 40, 60, 63, 64)) - 1).to_bytes(
                    8, "little"
                )
            case "zero":
                data[at : at + size] = bytes(size)
            case "copy":
                data[at : at + size] = data[:size]
    return bytes(data)


def mutate_json(text: str, draw: random.Random) -> str:
    value = json.loads(text)
    for _ in range(draw.choice((1, 1, 1, 3))):
        holder, key = draw.choice(list(_places(value)))
        change = draw.randrange(10)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[draw.choice(("", "x" * 300, "\ud800"))] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(draw.choice((*VALUES, "NESTED", "DIGITS")))
        if not list(_places(value)):
            break
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5)
    text = text.replace('"NESTED"', NESTED).replace('"DIGITS"', "7" * 4400)
    return text.encode("utf-8", "replace").decode()


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Where a value can be put, the upper ones as likely as the many lower ones."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        for _ in range(1 if depth > 1 else 8):
            yield value, key
        if isinstance(item, dict | list) and len(item) and depth < 6:
            yield from _places(item, depth + 1)


def _generate(model: Path, parent: Path) -> None:
    """What the command line does, in a process that has its imports already."""
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    output = os.open(parent / "stderr", os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["llamastream", "generate", "an an", "--max-tokens", "2", "--dtype", "float32"]
    sys.argv += ["--threads", "1", "--model", str(model), "--data-dir", str(parent / "data")]
    run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    PROCESSES.set_forkserver_preload([__name__, "llamastream.cli.generate"])
    for kind in options.kinds.split(","):
        counts: Counter[str] = Counter()
        for seed in range(options.first, options.first + options.count):
            with tempfile.TemporaryDirectory() as parent:
                counts[_outcome(damaged(kind, seed, Path(parent)), Path(parent))] += 1
        print(kind, dict(counts), flush=True)


def _outcome(model: Damaged, parent: Path) -> str:
    process = PROCESSES.Process(target=_generate, args=(model.path, parent))
    process.start()
    process.join(timeout=60)
    if process.is_alive():
        process.kill()
        process.join()
        print(model.kind, model.seed, "HANGS")
        return "hangs"
    said = (parent / "stderr").read_text(errors="replace").strip().splitlines()
    is_refused = process.exitcode == 2 and bool(said)
    if process.exitcode == 0 or is_refused and TOO_SHORT in said[-1]:
        return "runs"
    if is_refused and len(said) == 1 and said[0].startswith("llamastream: "):
        return "refused"
    print(model.kind, model.seed, process.exitcode, len(said), *said[-2:], sep=" | ")
    return "wrong"


if __name__ == "__main__":
    main()
