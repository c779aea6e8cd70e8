"""Turns groups of settings into command line options, so that each option is written once."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from llamastream.keys import Limits
from llamastream.settings import Settings, read_toml

CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None, typer.Option(help="TOML file with any of these options.", metavar="FILE")
    ],
)


Group = type[Settings] | type[Limits]


def with_settings(*groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of `groups`, and pass it the loaded groups first.

    An option that was not given falls back to its environment variable, the TOML file and the
    field's default, in this order. The command's own parameters follow unchanged.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[len(groups) :]
        fields = {name: field for group in groups for name, field in group.model_fields.items()}

        @functools.wraps(command)
        def wrapper(config: Path | None = None, **given: Any) -> None:
            flags = {n: given.pop(n) for n in fields if given.get(n) not in (None, [])}
            toml = read_toml(config)
            loaded = [group.load(flags, toml) for group in groups]
            command(*loaded, **{p.name: given[p.name] for p in own})

        parameters = [
            *own,
            *(_parameter(name, field) for name, field in fields.items()),
            CONFIG,
        ]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    if field.annotation is bool:
        flag += "/--no-" + name.replace("_", "-")
    option = typer.Option(flag, help=_help(field), show_default=False)
    kind = field.annotation if field.annotation in (bool, int, float) else None
    plain: Any = kind or next((t for t in (int, float) if field.annotation == t | None), str)
    if field.annotation == tuple[str, ...]:
        plain = list[str]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[plain | None, option],
    )


def _help(field: FieldInfo) -> str:
    text = field.description or ""
    if field.default_factory is not None:
        return f"{text} \\[{field.default_factory()}]"  # type: ignore[call-arg]
    if field.default is None or "[" in text:
        return text.replace("[", "\\[")
    return f"{text} \\[{field.default}]"
