"""Every error a user can meet, as one tree. Wire formats read `code` and `status` off the class.

ChatError
├── InvalidRequest (400)             a field has a bad value
│   ├── ContextLengthExceeded (400)  prompt + max_tokens do not fit the model's context
│   └── IdempotencyConflict (400)    an Idempotency-Key seen before, with another request
├── Unauthorized (401)
├── Forbidden (403)                  what a page of another origin, or a key, may not do
├── NotFound (404)
│   └── ModelNotFound (404)          a model name that is not served here
├── RequestTimeout (408)             a request that does not come to its end
├── PayloadTooLarge (413)
├── UnsupportedMediaType (415)
├── MisdirectedRequest (421)         a host that this server is not
├── NotVerifiable (422)              a stored answer that cannot be computed again here
├── Overloaded (429)                 the queue is full; `retry_after_s` says when to come back
│   └── RateLimited (429)            a limit of this key
├── InternalError (500, exit 70)     our own bug, or a runner that failed in the middle
├── EngineDead (503)                 loading, stopping, or stopped for good
│   └── ResponseInterrupted (503)    a stored answer that goes on elsewhere, or after a restart
├── TooManyConnections (503)         no place for another one
├── StoreUnavailable (503, exit 75)  the database is full, gone or locked: a later try may succeed
│   └── Fenced (503)                 another server took over what this one generated
├── DamagedRecord (503)              one stored record cannot be read
├── ConfigError (exit 2)             a flag, variable or TOML key with a bad value, a port in use
├── StoreError (exit 2)              a database that we must not or cannot work with
│   └── StoreBusy (exit 75)          another server has it
└── ModelError (exit 2)              a model that cannot be found, read or run
    └── ModelUnavailable (exit 75)   a model that cannot be fetched now

Exit codes are those of sysexits.h, but for 2. What ended with 70 or 75 may be started again.
"""

import errno
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

EXIT_CONFIG, EXIT_SOFTWARE, EXIT_TEMPORARY = 2, 70, 75
POINTER = b"version https://git-lfs.github.com/spec/"
MAX_POINTER_BYTES = 1024  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
# What may pass by itself: disks, memory, networks, limits of the machine.
PASSING = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EBUSY),
        *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EAGAIN, errno.EINTR),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)

MAX_MESSAGE_CHARS = 2000  # none of ours is longer, whatever a client's text does to it
MAX_PARAM_CHARS = 200
MAX_QUOTED_CHARS = 60  # of a client's value, repeated in an error

PYDANTIC = re.compile(r"(?:Value error, )?(?:\w+ should )?(.*?)(?: after validation, not \w+)?")


class ChatError(Exception):
    """Base of all errors meant for the user.

    `message` names the field, the limit, the value and the way out; `param` is the field alone.
    What a client wrote is in both by `quoted` only; and both have limits of their own.
    """

    status = 500
    code = "internal_error"
    exit_code = EXIT_CONFIG

    def __init__(self, message: str, *, param: str | None = None) -> None:
        self.message = cut(message, MAX_MESSAGE_CHARS)
        self.param = None if param is None else cut(param, MAX_PARAM_CHARS)
        super().__init__(self.message)


class InvalidRequest(ChatError):
    status = 400
    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """In OpenAI's words, for clients look for them (litellm, langchain, editors' agents)."""

    code = "context_length_exceeded"
    num_tokens: int | None = None  # the prompt's, at least; None: more than that is wrong
    limit = 0

    @classmethod
    def of(
        cls,
        num_prompt: int,
        max_tokens: int | None,
        limit: int,
        *,
        param: str,
        way_out: str = "",
        is_least: bool = False,
    ) -> Self:
        """`param` is what the prompt was made from: messages or prompt. `is_least`: it has
        `num_prompt` tokens or more."""
        least = "at least " if is_least else ""
        if max_tokens is None:
            given, what = f"your {param} resulted in {least}{num_prompt} tokens", param
        else:
            total, what = num_prompt + max_tokens, f"{param} or completion (max_tokens)"
            given = f"you requested {least}{total} tokens ({num_prompt} in the {param}, "
            given += f"{max_tokens} in the completion)"
        error = cls(
            f"This model's maximum context length is {limit} tokens. However, {given}. Please "
            f"reduce the length of the {what}{way_out}.",
            param=param,
        )
        error.num_tokens, error.limit = num_prompt, limit
        return error


class IdempotencyConflict(InvalidRequest):
    """400 and not 409: the official client repeats a 409, and this one would never succeed."""

    code = "idempotency_conflict"


class Unauthorized(ChatError):
    status = 401
    code = "invalid_api_key"


class Forbidden(ChatError):
    status = 403
    code = "forbidden"


class MisdirectedRequest(ChatError):
    status = 421
    code = "misdirected_request"


class NotVerifiable(ChatError):
    """422 and not 409, which the official client sends again."""

    status = 422
    code = "not_verifiable"

    def __init__(self, response_id: str, reason: str) -> None:
        super().__init__(f"Response {quoted(response_id)} {reason}.", param="response_id")
        self.reason = reason


class NotFound(ChatError):
    status = 404
    code = "not_found"


class PreviousResponseNotFound(InvalidRequest):
    """With OpenAI's status and code, by which clients know to send the whole conversation."""

    code = "previous_response_not_found"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"Previous response with id {quoted(id)} not found. Send the conversation as input.",
            param="previous_response_id",
        )


class ItemNotFound(NotFound):
    def __init__(self, id: str, where: str) -> None:
        super().__init__(
            f"Item {quoted(id)} not found. It must be the message of a stored response that has "
            "ended; else send the message itself.",
            param=f"{where}.id",
        )


class ModelNotFound(NotFound):
    code = "model_not_found"


class RequestTimeout(ChatError):
    status = 408
    code = "request_timeout"


class PayloadTooLarge(ChatError):
    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(ChatError):
    status = 415
    code = "unsupported_media_type"


class Overloaded(ChatError):
    """The waiting queue is full. `retry_after_s` is estimated from its length and recent speed."""

    status = 429
    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    code = "rate_limit_exceeded"


class InternalError(ChatError):
    exit_code = EXIT_SOFTWARE


class EngineDead(ChatError):
    status = 503
    code = "engine_unavailable"


class ResponseInterrupted(EngineDead):
    """The server ends, and not the answer: what its readers have to do is to come again."""

    code = "response_interrupted"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"This server stops, and {quoted(id)} goes on at another, or when it is started again. "
            "Come again for what is behind the last event you saw."
        )


class TooManyConnections(ChatError):
    status = 503
    code = "too_many_connections"


class ConfigError(ChatError):
    """A setting that cannot be used. One line on stderr."""

    code = "config_error"


class StoreUnavailable(ChatError):
    """The database refused a transaction, none of which was kept. A later one may succeed."""

    status = 503
    code = "store_unavailable"
    exit_code = EXIT_TEMPORARY


class Fenced(StoreUnavailable):
    """Under this name nothing can be written any more."""

    def __init__(self) -> None:
        super().__init__("Other servers took this one for dead. Nothing was written; try again.")


class DamagedRecord(ChatError):
    """What the database holds of one record cannot be read. Nothing helps but to delete it."""

    status = 503
    code = "store_unavailable"


class StoreError(ChatError):
    """A database we must not or cannot work with. One line on stderr."""

    code = "store_error"


class StoreBusy(StoreError):
    exit_code = EXIT_TEMPORARY


class ModelError(ChatError):
    """A model that cannot be found, read or run. One line on stderr."""

    code = "model_error"


class ModelUnavailable(ModelError):
    """The place a model is fetched from cannot be reached, or fails."""

    exit_code = EXIT_TEMPORARY


def may_pass(error: BaseException) -> bool:
    """Whether an error of the system, or one that lies behind this, is of what may pass by itself:
    a full disk, a network that is down."""
    if isinstance(error, OSError) and error.errno in PASSING:
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and may_pass(cause)


def exit_code(error: ChatError) -> int:
    """What a command ends with."""
    is_about_files = isinstance(error, ModelError | StoreError)
    return EXIT_TEMPORARY if is_about_files and may_pass(error) else error.exit_code


@contextmanager
def reading(file: object, way_out: str = "Download it again.") -> Iterator[None]:
    """The boundary around parsers of files that we did not write: all they raise is a ModelError.

    They meet whatever a damaged or hostile file makes of their assumptions: TypeError, KeyError,
    RecursionError, a panic of Rust. Our own errors pass.
    """
    try:
        if isinstance(file, Path):
            _refuse_pointer(file)
        yield
    except ChatError:
        raise
    except OSError as error:
        raise ModelError(f"Cannot read {file}: {error.strerror or error}.") from error
    except BaseException as error:
        # NOTE: a panic is no Exception; its class cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"{file} is damaged or not what it should be ({type(error).__name__}: "
            f"{lines[0][:200].rstrip('.')}). {way_out}"
        ) from error


def _refuse_pointer(file: Path) -> None:
    """Raises ModelError for what a clone without Git LFS has in the place of a large file."""
    if file.is_file() and file.stat().st_size <= MAX_POINTER_BYTES:
        with file.open("rb") as stream:
            if stream.read(len(POINTER)) == POINTER:
                raise ModelError(
                    f"{file} is a pointer of Git LFS, not the file itself. Fetch it: install "
                    "git-lfs, then `git lfs pull` in its folder."
                )


def requirement(problem: str) -> str:
    """pydantic's words for what is wrong with a value, to follow the field's name: `must ...`."""
    found = PYDANTIC.fullmatch(problem)
    said = found[1] if found else problem
    return said if said.startswith("must ") else f"must {said}"


def cut(text: str, max_chars: int) -> str:
    """`text`, or its beginning and the sign that there was more."""
    return text if len(text) <= max_chars else text[:max_chars] + "..."


def quoted(value: object, *, mark: bool = True) -> str:
    """A client's value as an error repeats it: Python's notation, or a text as it is without
    `mark`; the beginning of a long one."""
    if isinstance(value, str):
        value = cut(value, MAX_QUOTED_CHARS)
        return repr(value) if mark else value
    return cut(_SHORT.repr(value), MAX_QUOTED_CHARS)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 8, 4
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MAX_QUOTED_CHARS
