"""Whether a text may fit, told at a cost that depends on the room and not on the text."""

from llamastream.text.tokenizer import Tokenizer

# A text of more characters per token of room is read piece by piece, until it is sure not to fit.
CHARS_PER_TOKEN = 8
MIN_PIECE, MAX_PIECE = 4096, 65536  # characters
CUT_TOKENS = 64  # that may come from cutting a text in two, at the very most


class DoesNotFit(Exception):
    """A text takes more tokens than there is room for: at least `num_tokens`."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens


def check_room(tokenizer: Tokenizer, text: str, room: int | None) -> None:
    """Raises DoesNotFit for a prompt's text that is sure to take more than `room` tokens."""
    if room is None or len(text) <= max(CHARS_PER_TOKEN * room, MIN_PIECE):
        return
    size, count = min(max(CHARS_PER_TOKEN * room, MIN_PIECE), MAX_PIECE), 0
    for start in range(0, len(text), size):
        piece = tokenizer.split_special(text[start : start + size])
        count += max(len(tokenizer.encode_segments(piece)) - CUT_TOKENS, 0)
        if count > room + room // 8:
            raise DoesNotFit(count)
