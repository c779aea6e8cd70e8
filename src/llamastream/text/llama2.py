"""Llama 2 chat prompts, as Meta's `chat_completion` builds them.

Source: github.com/meta-llama/llama, llama/generation.py at 689c7f2. Every question with its answer
is encoded by itself, between BOS and EOS. The tags are ordinary text to the tokenizer, so what
holds one is refused: it could forge a turn.
"""

from collections.abc import Iterable, Sequence

from llamastream.errors import InvalidRequest, ModelError
from llamastream.text.bounds import check_room
from llamastream.text.conversation import check_known, check_thinking, strings_of
from llamastream.text.tokenizer import Tokenizer
from llamastream.types import PLAIN_PROMPT, Message, PromptOptions

TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


class Llama2Format:
    def __init__(self, tokenizer: Tokenizer, *, allow_prompt_tags: bool) -> None:
        """Raises ModelError for a tokenizer without BOS or EOS."""
        if tokenizer.bos_token_id is None or not tokenizer.eos_token_ids:
            raise ModelError("--chat-template llama2 needs a tokenizer with BOS and EOS tokens.")
        self._tokenizer = tokenizer
        self._bos = tokenizer.bos_token_id
        self._eos = tokenizer.eos_token_ids[0]
        self._tags = () if allow_prompt_tags else TAGS

    def build(
        self,
        messages: Sequence[Message],
        options: PromptOptions = PLAIN_PROMPT,
        room: int | None = None,
    ) -> list[int]:
        ids: list[int] = []
        turns = self._turns(messages, options)
        check_room(self._tokenizer, "".join(text for text, _ in turns), room)
        for text, is_answered in turns:
            ids += [self._bos, *self._tokenizer.encode(text, add_bos=False)]
            ids += [self._eos] if is_answered else []
        return ids

    def render(self, messages: Sequence[Message], options: PromptOptions = PLAIN_PROMPT) -> str:
        bos, eos = self._tokenizer.token_text(self._bos), self._tokenizer.token_text(self._eos)
        turns = self._turns(messages, options)
        return "".join(bos + text + (eos if is_answered else "") for text, is_answered in turns)

    def _turns(self, messages: Sequence[Message], options: PromptOptions) -> list[tuple[str, bool]]:
        """The text of each pair of turns, and whether the whole answer is in it."""
        check_known(options.variables, frozenset(), may_disable=True)
        check_thinking(options.thinking, reasons=False)
        for index, message in enumerate(messages):
            check_tags(index, message, self._tags)
        begun = ""
        if options.continues and messages[-1].role == "assistant":
            *messages, last = messages
            begun = f" {last.text.lstrip()}" if last.text.strip() else ""
        _check_roles(messages)
        contents = [message.text for message in messages]
        if messages[0].role == "system":
            system, first = contents[:2]
            contents[:2] = [f"<<SYS>>\n{system}\n<</SYS>>\n\n{first}"]
        turns = []
        for question, answer in zip(contents[::2], contents[1::2], strict=False):
            turns.append((f"[INST] {question.strip()} [/INST] {answer.strip()} ", True))
        return [*turns, (f"[INST] {contents[-1].strip()} [/INST]{begun}", False)]


def check_tags(index: int, message: Message, tags: Iterable[str]) -> None:
    """Raises InvalidRequest for a message that holds one of `tags`."""
    for tag in tags:
        for field, text in strings_of(message):
            if tag in text:
                raise InvalidRequest(
                    f"messages[{index}].{field} must not hold {tag}, a tag of the model's prompts. "
                    "Remove it, or start the server with --allow-prompt-tags.",
                    param=f"messages[{index}].{field}",
                )


def _check_roles(messages: Sequence[Message]) -> None:
    """A system message or none, then user and assistant in turns, and the user last."""
    start = 1 if messages[0].role == "system" else 0
    for index, message in enumerate(messages[start:], start):
        expected = "user" if (index - start) % 2 == 0 else "assistant"
        if message.role != expected:
            raise InvalidRequest(
                f"messages[{index}].role must be {expected}: after an optional system message, "
                f"user and assistant take turns, starting with user. Given: {message.role}.",
                param=f"messages[{index}].role",
            )
    if messages[-1].role != "user":
        last = len(messages) - 1
        raise InvalidRequest(
            f"messages[{last}].role must be user: the last message is the one to answer. "
            f"Given: {messages[-1].role}.",
            param=f"messages[{last}].role",
        )
