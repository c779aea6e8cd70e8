"""Token ids of a text and the text of token ids, for one model.

Two kinds of text go in. Plain text is what somebody typed: the text of a control token in it stays
text. Prompt text is what a template or an operator wrote: control tokens in it are recognised.
Encoding is the `tokenizers` library's; decoding is ours, since a stream needs it per token.
"""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as HFTokenizer

from llamastream.config import TokenizerConfig
from llamastream.errors import InvalidRequest, reading
from llamastream.text.pieces import METASPACE, PieceRules, piece_rules
from llamastream.text.probe import CONTROL_SHAPE
from llamastream.text.special import Segment, SpecialToken, SpecialTokens

# Never left out of a text, whatever the file says: they are looked for in it.
REASONING_TAGS = ("<think>", "</think>")
# Around calls and results; no file flags them all. What the model writes of them is shown.
TOOL_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# Files often name one of several; these end a turn in every model that has them.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>")
# A conversation comes again with each of its turns: its texts are encoded once. 40 MB at most.
MAX_KNOWN_TEXTS = 1024
MAX_KNOWN_LENGTH = 4096  # characters


class Tokenizer:
    """One model's tokenizer. Thread-safe; the only things that change are caches."""

    def __init__(self, config: TokenizerConfig) -> None:
        """Raises ModelError if the file cannot be read or its decoder is of an unknown family."""
        with reading(config.source):
            self._hf = _load(config.tokenizer_json)
            self._rules = piece_rules(_state(self._hf.decoder))
            self._added: dict[int, AddedToken] = self._hf.get_added_tokens_decoder()
            self._hf_inner = _without_first_prefix(config.tokenizer_json, self._hf)
        self._odd = {i: bytes.fromhex(piece) for i, piece in config.odd_pieces.items()}
        self.config = config
        self.bos_token_id = config.bos_token_id
        self.eos_token_ids = config.eos_token_ids
        self.add_bos_token = config.add_bos_token and config.bos_token_id is not None
        self._controls: frozenset[int] = frozenset()  # that a template told of
        known = map(self._hf.token_to_id, TURN_ENDS)
        self.adopt(TOOL_TAGS, [token_id for token_id in known if token_id is not None])

    def adopt(self, texts: Iterable[str] = (), ends: Iterable[int] = ()) -> None:
        """Take what a chat template tells of the vocabulary, whatever the file says of it.

        texts: those that are tokens are control tokens. ends: ids that end a turn. Only while
        loading: it changes what texts are encoded to.
        """
        self._controls |= {i for i in map(self._hf.token_to_id, texts) if i is not None}
        self.eos_token_ids = self._with_twins(dict.fromkeys((*self.eos_token_ids, *ends)))
        marks = {*self.eos_token_ids, *self._controls}
        marks |= set() if self.bos_token_id is None else {self.bos_token_id}
        flagged = {i for i, token in self._added.items() if token.special}
        shaped = {i for i, t in self._added.items() if CONTROL_SHAPE.fullmatch(t.content)}
        self.special_ids = frozenset(self._with_twins(marks | flagged | shaped))
        shown = {self._hf.token_to_id(tag) for tag in REASONING_TAGS}
        shown |= {self._hf.token_to_id(tag) for tag in TOOL_TAGS} - flagged
        # Left out by skip_special_tokens.
        self.hidden_ids = frozenset(self._with_twins((marks | flagged) - shown))
        unknown = getattr(self._hf.model, "unk_token", None)  # stands for what has no token
        self._forgeable = self.special_ids - {self._hf.token_to_id(unknown) if unknown else None}
        self._special = SpecialTokens(
            self._special_token(i) for i in sorted(self.special_ids) if i not in self._odd
        )
        for hf in {id(hf): hf for hf in (self._hf, self._hf_inner)}.values():
            _keep_as_text(hf, self._added, self.special_ids)
        self._known_ids = lru_cache(MAX_KNOWN_TEXTS)(self._segment_ids)
        self._raw: dict[int, bytes] = {}
        self._whole_texts: dict[bool, dict[int, str]] = {True: {}, False: {}}

    def token_id(self, text: str) -> int | None:
        """The id of the token that is written so."""
        found: int | None = self._hf.token_to_id(text)
        return found

    @property
    def num_tokens(self) -> int:
        count: int = self._hf.get_vocab_size(with_added_tokens=True)
        return count

    @property
    def rules(self) -> PieceRules:
        return self._rules

    @property
    def special_texts(self) -> frozenset[str]:
        return self._special.texts

    def encode(self, text: str, *, add_bos: bool | None = None) -> list[int]:
        """Ids of plain text: none of them is a control token but the BOS in front.

        `add_bos` None leaves it to the model. Raises InvalidRequest for text that is no Unicode.
        """
        with_bos = self.add_bos_token if add_bos is None else add_bos
        bos = [self.bos_token_id] if with_bos and self.bos_token_id is not None else []
        return bos + self._encode_plain(self._hf, text)

    def encode_raw_prompt(self, text: str) -> list[int]:
        """Ids of prompt text: control tokens in it are recognised.

        It may start with the text of BOS; a model that wants a BOS gets one, never two.
        """
        return self.with_bos(self.encode_segments(self.split_special(text)))

    def with_bos(self, ids: list[int]) -> list[int]:
        """`ids` with BOS in front, if the model wants one and it is not there already."""
        bos = self.bos_token_id
        if not self.add_bos_token or bos is None or ids[:1] == [bos]:
            return ids
        return [bos, *ids]

    def split_special(self, text: str, masked: str | None = None) -> list[Segment]:
        """Cut prompt text at its control tokens; see `SpecialTokens.split` for `masked`."""
        return self._special.split(text, masked)

    def encode_segments(self, segments: Iterable[Segment]) -> list[int]:
        """Ids of plain texts and control tokens that follow each other in one prompt."""
        ids: list[int] = []
        for position, segment in enumerate(segments):
            if isinstance(segment, int):
                ids.append(segment)
            else:
                encode = self._known_ids if len(segment) <= MAX_KNOWN_LENGTH else self._segment_ids
                ids += encode(segment, position == 0)
        return ids

    def _segment_ids(self, text: str, is_first: bool) -> tuple[int, ...]:
        return tuple(self._encode_plain(self._hf if is_first else self._hf_inner, text))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`. Bytes that are no UTF-8 become U+FFFD, as `bytes.decode` does it."""
        raws = [self.visible_bytes(i, skip_special_tokens) for i in ids]
        if self._rules.strip_leading_space:
            first = next((n for n, raw in enumerate(raws) if raw), None)
            if first is not None and self.has_prefix_space(ids[first]):
                raws[first] = raws[first][1:]
        return b"".join(raws).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; a control token's are its text's. Empty past the end."""
        raw = self._raw.get(token_id)
        if raw is None:
            piece = self._piece(token_id)
            if piece is None:
                raw = self._rules.odd_bytes(self._odd.get(token_id, b""))
            else:
                owner = token_id if token_id not in self._odd else self._hf.token_to_id(piece)
                raw = self._rules.to_bytes(piece, added=owner in self._added)
            self._raw[token_id] = raw
        return raw

    def token_text(self, token_id: int) -> str:
        """A token's bytes as text, for people; parts of characters are U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def visible_bytes(self, token_id: int, skip_special_tokens: bool) -> bytes:
        """`token_bytes`, or nothing for a hidden control token."""
        if skip_special_tokens and token_id in self.hidden_ids:
            return b""
        return self.token_bytes(token_id)

    def whole_texts(self, skip_special_tokens: bool) -> dict[int, str]:
        """A cache that all streams share: texts of tokens that leave no character unfinished."""
        return self._whole_texts[skip_special_tokens]

    def has_prefix_space(self, token_id: int) -> bool:
        """Whether the first place of a text takes a leading space off this token.

        The byte `<0x20>` is no such space: SentencePiece keeps it.
        """
        piece = self._piece(token_id)
        return self._rules.strip_leading_space and piece is not None and piece[:1] == METASPACE

    def _piece(self, token_id: int) -> str | None:
        """How the vocabulary writes a token; None past its end and for bytes that are no text."""
        piece: str | None
        if token_id in self._odd:
            try:
                piece = self._odd[token_id].decode()
            except UnicodeDecodeError:
                piece = None
        else:
            piece = self._hf.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        return piece

    def _with_twins(self, ids: Iterable[int]) -> tuple[int, ...]:
        """`ids` with those that the vocabulary writes the same."""
        found = tuple(ids)
        texts = {self._piece(i) for i in found} if self._odd else set()
        return (*found, *(i for i in self._odd if self._piece(i) in texts - {None}))

    def _special_token(self, token_id: int) -> SpecialToken:
        added = self._added.get(token_id)
        if added is None:
            return SpecialToken(token_id, self._piece(token_id) or "")
        return SpecialToken(token_id, added.content, added.lstrip, added.rstrip, added.single_word)

    def _encode_plain(self, hf: HFTokenizer, text: str) -> list[int]:
        try:
            # NOTE: unlike `encode`, a batch lets other threads run: a long text takes seconds.
            ids: list[int] = hf.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except TypeError as error:  # what the library says to a lone surrogate
            raise InvalidRequest(
                "Text must be valid Unicode: it holds a lone surrogate."
            ) from error
        if self._forgeable.isdisjoint(ids):
            return ids
        ids, start = [], 0
        for end in [*_cuts(hf, text, self._forgeable), len(text)]:
            ids += self._encode_plain(self._hf_inner if start else hf, text[start:end])
            start = end
        return ids


def _cuts(hf: HFTokenizer, text: str, forgeable: frozenset[int]) -> list[int]:
    """Where to cut what the file keeps among the ordinary tokens though it is a control token: in
    the middle of each. Raises InvalidRequest for one that has none."""
    encoding = hf.encode_batch([text], add_special_tokens=False)[0]
    cuts = [0]
    for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        if token_id in forgeable:
            cuts.append((start + stop) // 2)
            if cuts[-1] in (cuts[-2], len(text)):
                raise InvalidRequest(
                    f"Text must not hold {text[start:stop]!r}: it can only be a control token."
                )
    return cuts[1:]


def _load(tokenizer_json: str) -> HFTokenizer:
    hf: HFTokenizer = HFTokenizer.from_str(tokenizer_json)
    hf.no_truncation()
    hf.no_padding()
    return hf


def _state(component: Any) -> bytes:
    """A component of the library's tokenizer as JSON."""
    state: bytes = b"null" if component is None else component.__getstate__()
    return state


def _keep_as_text(
    hf: HFTokenizer, added: dict[int, AddedToken], special_ids: frozenset[int]
) -> None:
    """Make `hf` encode the text of control tokens as text, in place."""
    unflagged = [t for i, t in added.items() if i in special_ids and not t.special]
    if unflagged:
        hf.add_special_tokens(
            [
                AddedToken(token.content, special=True, normalized=token.normalized)
                for token in unflagged
            ]
        )
    hf.encode_special_tokens = True


def _without_first_prefix(tokenizer_json: str, hf: HFTokenizer) -> HFTokenizer:
    """The tokenizer for text that follows a control token.

    It is `hf` itself, unless a space is put before the first text only (`prepend_scheme: first`).
    """
    if b'"prepend_scheme":"first"' not in _state(hf.pre_tokenizer):
        return hf
    data = json.loads(tokenizer_json)
    steps = data["pre_tokenizer"].get("pretokenizers", [data["pre_tokenizer"]])
    for step in steps:
        if step.get("prepend_scheme") == "first":
            step["prepend_scheme"] = "never"
    return _load(json.dumps(data))
