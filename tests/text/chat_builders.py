"""Tokenizers, templates and conversations for the tests of the chat layer."""

import base64
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tests.doubles.tokenizer import byte_vocab
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

from llamastream.config import TokenizerConfig
from llamastream.models.pre_tokenizers import CUTTINGS, LLAMA3_SPLIT
from llamastream.models.tokenizer_json import Piece, byte_level_json
from llamastream.text import IncrementalDetokenizer, Tokenizer
from llamastream.types import Message

SHARED = Path(__file__).parents[3] / "shared" / "data"
CONTROL_TEXTS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|begin_of_text|> <|start_header_id|> <|end_header_id|> "
    "<|eot_id|> <|user|> <|assistant|> <|system|> <|end|> <s> </s> [INST] [/INST]"
).split()
TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")

# In the styles of published templates, written for these tests.
TEMPLATES = {
    "chatml": """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "llama3": """{{- bos_token }}
{%- for message in messages %}
    {%- set head = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' %}
    {{- head + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}""",
    "mistral": """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}{%- set turns = messages[1:] %}
{%- else %}{%- set turns = messages %}{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system is defined %}
            {{- '[INST] ' + system + '\n\n' + message['content'] + '[/INST]' }}
        {%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}
    {%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}
{%- endfor %}""",
    "composed": """{% for message in messages %}{{ '<|' + message['role'] + '|>' + '\n' }}
{%- generation %}{{ message.content.strip() ~ '<|end|>' }}{% endgeneration %}{{ '\n' }}
{%- endfor %}{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}""",
    "thinking": """{%- for message in messages %}
{%- set content = message.content %}
{%- if '</think>' in content and message.role == 'assistant' %}
    {%- set content = content.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>' ~ message.role ~ '\n' ~ content ~ '<|im_end|>\n' }}
{%- endfor %}{{- '<|im_start|>assistant\n' }}""",
    "json": """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + (message.content | tojson) + '<|im_end|>\n' }}
{%- endfor %}{{- '<|im_start|>assistant\n' }}""",
}


# Appended to a template that writes only a part of a conversation: what the probe wants to see.
WHOLE = (
    "{% if messages | length > 2 and messages[-3].content == 'kestrel' %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}{% endif %}"
)


def examples(count: int) -> settings:
    """How many examples a property is tried on; always the same ones, however slow the machine."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


def train_byte_level() -> HFTokenizer:
    """A small byte-level BPE with the control tokens of several formats."""
    hf = HFTokenizer(models.BPE())
    # As Llama 3's tokenizer cuts text, so that merges cross line ends.
    cut = pre_tokenizers.Split(pattern=Regex(LLAMA3_SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    hf.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
    hf.decoder = decoders.ByteLevel()
    words = [*CONTROL_TEXTS, "user\n\nuser\n\n\n system\n assistant\n\n the then there \n \n\n  \n"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[AddedToken(text, special=True) for text in CONTROL_TEXTS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hf.train_from_iterator(words * 3, trainer)
    hf.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return hf


def config_of(
    hf: HFTokenizer,
    *,
    bos: str | None = "<|begin_of_text|>",
    eos: str = "<|eot_id|>",
    add_bos: bool = False,
    template: str | None = None,
) -> TokenizerConfig:
    return TokenizerConfig(
        tokenizer_json=hf.to_str(),
        bos_token_id=None if bos is None else hf.token_to_id(bos),
        eos_token_ids=(hf.token_to_id(eos),),
        add_bos_token=add_bos,
        chat_template=template,
    )


def llama3_json(model_file: Path) -> str:
    """A `tokenizer.json` of Llama 3's published ranks: base64 of the bytes, and the rank."""
    lines = (line.split() for line in model_file.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    alphabet = {byte: char for char, byte in byte_vocab().items()}
    text = {raw: "".join(alphabet[byte] for byte in raw) for raw in ranks}
    merges = [
        (rank, ranks[raw[:cut]], (text[raw[:cut]], text[raw[cut:]]))
        for raw, rank in ranks.items()
        for cut in range(1, len(raw))
        if raw[:cut] in ranks and raw[cut:] in ranks
    ]
    names = {n: f"<|reserved_{n}|>" for n in range(256)}
    names |= {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>"}
    names |= {7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>"}
    return byte_level_json(
        [*(text[raw] for raw in sorted(ranks, key=ranks.__getitem__)), *names.values()],
        [merge for *_, merge in sorted(merges)],
        [Piece.NORMAL] * len(ranks) + [Piece.CONTROL] * len(names),
        cutting=CUTTINGS["llama-bpe"],
        bos_id=None,
    )


def stream(tokenizer: Tokenizer, ids: list[int], *, skip: bool = True) -> tuple[list[str], str]:
    """The delta of each token, and the flush."""
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip)
    return [detokenizer.add(token_id) for token_id in ids], detokenizer.finish()


def messages_of(case: dict[str, Any]) -> list[Message]:
    return [Message(message["role"], message["content"]) for message in case["messages"]]


def dicts(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def chat(*contents: str, system: str | None = None) -> list[Message]:
    """User and assistant in turns, after an optional system message."""
    start = [] if system is None else [Message("system", system)]
    roles = ("user", "assistant")
    return start + [Message(roles[n % 2], content) for n, content in enumerate(contents)]


def hostile_texts() -> st.SearchStrategy[str]:
    """Texts made of control tokens and parts of them, tags, control characters and emoji."""
    whole = [*CONTROL_TEXTS, *TAGS, "<think>", "</think>", "<unk>", "<0x0A>"]
    parts = ["<|", "|>", "im_start", "eot_id", "<", ">", "|", "/s", "[", "]", "INST"]
    odd = ["\n", "\n\n", " ", "\t", "\0", "\x1b", "\u2028", "\u200b", "\ufeff", "\U000f0000"]
    plain = ["user", "system\n", "the", "🙂", "👩‍👩‍👧", "é", "中", "'", '"', "\\", "{{", "{%"]
    return st.lists(st.sampled_from([*whole, *parts, *odd, *plain]), max_size=8).map("".join)
