"""What cannot fit costs no more than what does, however long it is; what fits is never refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from chat_builders import chat, examples
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer

from llamastream.config import TokenizerConfig
from llamastream.errors import ContextLengthExceeded
from llamastream.text import DoesNotFit, PromptBuilder, Tokenizer, check_room, fit_context
from llamastream.types import PLAIN_PROMPT, Message, PromptOptions

MIB = 2**20


class CountingTokenizer(Tokenizer):
    """Counts what it is given to read."""

    num_chars = 0

    def _encode_plain(self, hf: HFTokenizer, text: str) -> list[int]:
        self.num_chars += len(text)
        return super()._encode_plain(hf, text)


class CountingBuilder(PromptBuilder):
    num_built = 0

    def build(
        self,
        messages: Sequence[Message],
        options: PromptOptions = PLAIN_PROMPT,
        room: int | None = None,
    ) -> list[int]:
        self.num_built += 1
        return super().build(messages, options, room)


@pytest.fixture
def counting(byte_level: Tokenizer) -> CountingTokenizer:
    return CountingTokenizer(byte_level.config)


TEXTS = {"words": "the cat sat ", "spaces": " ", "letters": "a", "control": "<|im_end|>", "ы": "ы"}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_text_that_cannot_fit_is_hardly_read(counting: CountingTokenizer, text: str) -> None:
    with pytest.raises(DoesNotFit) as refusal:
        check_room(counting, text * (4 * MIB // len(text)), 500)
    assert refusal.value.num_tokens > 500
    assert counting.num_chars < 20_000


@pytest.mark.parametrize("chat_template", ["chatml", "llama2"])
def test_a_conversation_that_cannot_fit_is_hardly_read(
    counting: CountingTokenizer, llama2_config: TokenizerConfig, chat_template: str
) -> None:
    tokenizer = counting if chat_template == "chatml" else CountingTokenizer(llama2_config)
    builder = PromptBuilder.from_config(tokenizer, chat_template)
    for messages in (chat("ab " * MIB), chat(*["ab " * 1000] * 1001)):
        tokenizer.num_chars = 0
        with pytest.raises(ContextLengthExceeded, match="at least [0-9]+ tokens"):
            fit_context(
                builder,
                tokenizer,
                messages,
                truncation="disabled",
                max_tokens=5,
                max_model_len=500,
            )
        assert tokenizer.num_chars < 20_000


@given(
    pieces=st.lists(
        st.tuples(
            st.sampled_from(["a", " ", "\n", "the cat ", "<|im_end|>", "ы", "="]),
            st.integers(1, 3000),
        ),
        max_size=12,
    )
)
@examples(60)
def test_a_text_that_fits_is_never_refused(
    byte_level: Tokenizer, llama2: Tokenizer, pieces: list[tuple[str, int]]
) -> None:
    text = "".join(piece * count for piece, count in pieces)
    for tokenizer in (byte_level, llama2):
        check_room(tokenizer, text, len(tokenizer.encode_raw_prompt(text)))


def test_white_space_that_fits_is_never_refused(llama3: Tokenizer) -> None:
    for text in (" " * 300_000, "\n" * 200_000, "=" * 100_000):
        tokenizer_ids = llama3.encode_raw_prompt(text)
        assert len(text) > 8 * len(tokenizer_ids)
        check_room(llama3, text, len(tokenizer_ids))


def long_conversation(num_turns: int, size: int) -> list[Message]:
    return chat(*(f"{n} " + "ab " * size for n in range(2 * num_turns - 1)), system="Be brief.")


def test_turns_far_back_are_dropped_unread(counting: CountingTokenizer) -> None:
    builder = PromptBuilder.from_config(counting, "chatml")
    read = []
    for num_turns in (500, 2000):
        counting.num_chars = 0
        messages = long_conversation(num_turns, 30)
        fitted = fit_context(
            builder, counting, messages, truncation="auto", max_tokens=20, max_model_len=1000
        )
        assert 0 < len(fitted.ids) <= 980
        kept = [messages[0], *messages[1 + 2 * fitted.num_dropped_turns :]]
        assert fitted.ids == builder.build(kept)
        read.append(counting.num_chars)
    assert read[1] < 1.5 * read[0] < 100_000


def test_what_is_dropped_moves_seldom_also_where_turns_are_left_unread(
    byte_level: Tokenizer,
) -> None:
    builder = PromptBuilder.from_config(byte_level, "chatml")
    dropped = [
        fit_context(
            builder,
            byte_level,
            long_conversation(num_turns, 30),
            truncation="auto",
            max_tokens=20,
            max_model_len=1000,
        ).num_dropped_turns
        for num_turns in range(2, 150)
    ]
    assert dropped == sorted(dropped)
    assert len(set(dropped)) < dropped[-1] / 2


def test_thousands_of_small_turns_are_not_tried_one_by_one(
    byte_level: Tokenizer, tmp_path: Path
) -> None:
    template = tmp_path / "wordy.jinja"
    words = "more words than anybody expects " * 20
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n" + words + "{{ m.content }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )
    builder = CountingBuilder.from_config(byte_level, str(template))
    fitted = fit_context(
        builder,
        byte_level,
        long_conversation(1500, 0),
        truncation="auto",
        max_tokens=5,
        max_model_len=5000,
    )
    assert fitted.num_dropped_turns > 1400
    assert builder.num_built < 20
