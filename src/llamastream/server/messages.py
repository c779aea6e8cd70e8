"""What a message is in both of OpenAI's interfaces: a role, and a text or parts of text."""

from collections.abc import Collection
from typing import Any

from llamastream.errors import InvalidRequest
from llamastream.messages import Role

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name for it
    "user": "user",
    "assistant": "assistant",
}


def parse_role(raw: dict[str, Any], where: str) -> Role:
    """Raises InvalidRequest."""
    role = raw.get("role")
    if not isinstance(role, str) or role not in ROLES:
        given = "nothing" if role is None else repr(role)[:60]
        raise InvalidRequest(
            f"{where}.role must be one of {', '.join(ROLES)}. Given: {given}.",
            param=f"{where}.role",
        )
    return ROLES[role]


def parse_content(
    content: object, where: str, *, types: Collection[str], known: Collection[str] = ()
) -> list[str]:
    """The texts of a string or of parts of `types`. `known` fields of a part may be there while
    they are empty or of ours. Raises InvalidRequest."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list) or not content:
        given = "nothing" if content is None or content == [] else type(content).__name__
        raise InvalidRequest(
            f"{where} must be a string or a list of text parts. Given: {given}.", param=where
        )
    fields = {"type", "text", *known}
    return [_parse_part(part, f"{where}[{k}]", types, fields) for k, part in enumerate(content)]


def refuse_others(raw: dict[str, Any], known: Collection[str], where: str) -> None:
    """Raises InvalidRequest for a field that is not known and says something."""
    for name, value in raw.items():
        if name not in known and value not in (None, [], {}):
            raise InvalidRequest(
                f"{where}.{name[:60]} is not supported. Leave it out.",
                param=f"{where}.{name[:60]}",
            )


def _parse_part(part: object, where: str, types: Collection[str], known: Collection[str]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in types:
        given = type(part).__name__ if kind is None else repr(kind)[:60]
        raise InvalidRequest(
            f"{where}.type must be {' or '.join(map(repr, types))}: other kinds of content are not "
            f"supported. Given: {given}.",
            param=f"{where}.type",
        )
    refuse_others(part, known, where)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.text must be a string.", param=f"{where}.text")
    return text
