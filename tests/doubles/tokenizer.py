"""A tokenizer whose ids are bytes: id 65 is "A". Built for the real Tokenizer class."""

import json
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from llamastream.config import TokenizerConfig
from llamastream.text import REASONING_TAGS

IM_START, IM_END, BOS = 256, 257, 258
THINK, END_THINK = 259, 260  # of a vocabulary that has them
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer_config(
    *,
    reasons: bool = False,
    control: Sequence[str] = (),
    words: Sequence[str] = (),
    template: str = CHATML,
) -> TokenizerConfig:
    """256 bytes, then `<|im_start|>`, `<|im_end|>` (the end of a turn) and `<s>`. reasons: and
    then the tags of reasoning, which are ordinary tokens. Behind these `control` tokens, and
    `words` that are tokens of their own."""
    tokenizer = Tokenizer(models.BPE(vocab=byte_vocab(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>", "<s>")]
    )
    if reasons:
        tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in REASONING_TAGS])
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in control])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return TokenizerConfig(
        tokenizer_json=json.dumps(json.loads(tokenizer.to_str())),
        bos_token_id=BOS,
        eos_token_ids=(IM_END,),
        add_bos_token=False,
        chat_template=template,
    )


def byte_vocab() -> dict[str, int]:
    """GPT-2's printable stand-in of each byte: itself, or the next unused one from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_ins = {byte: chr(byte) for byte in printable}
    stand_ins |= {byte: chr(256 + n) for n, byte in enumerate(others)}
    return {char: byte for byte, char in stand_ins.items()}


def text_of(ids: Iterable[int]) -> str:
    """Without control tokens."""
    tags = {THINK: b"<think>", END_THINK: b"</think>"}
    return b"".join(tags.get(i) or bytes([i] if i < 256 else []) for i in ids).decode()
