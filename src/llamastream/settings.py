"""Where options come from: flags, `LLAMASTREAM_*` variables, a TOML file, in this order.

The only module that reads the environment. The options themselves are in `config`.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from llamastream.errors import ConfigError, requirement

ENV_PREFIX = "LLAMASTREAM_"


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/llamastream`, by the XDG base directory specification."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "llamastream"


class Settings(BaseModel):
    """A group of options. Each field is a flag, an environment variable and a TOML key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def load(cls, flags: Mapping[str, Any], toml: Mapping[str, Any]) -> Self:
        """Join the sources, flags first, then environment. Raises ConfigError naming the option."""
        values = {name: toml[name] for name in cls.model_fields if name in toml}
        for name in cls.model_fields:
            if (value := os.environ.get(ENV_PREFIX + name.upper())) is not None:
                values[name] = value
        values.update({name: flags[name] for name in cls.model_fields if name in flags})
        try:
            return cls(**values)
        except ValidationError as error:
            problem = error.errors()[0]
            name = str(problem["loc"][0])
            raise ConfigError(
                f"--{name.replace('_', '-')} (or {ENV_PREFIX}{name.upper()}) "
                f"{requirement(problem['msg'])}. Given: {problem['input']!r}."
            ) from None


def split_commas(value: str | None) -> list[str]:
    """The parts of an option that holds several with commas between them; none if it is absent."""
    return [part.strip() for part in (value or "").split(",") if part.strip()]


def _split(value: Any) -> Any:
    """Also of a flag that was given several times."""
    values = [value] if isinstance(value, str) else value
    if isinstance(values, list) and all(isinstance(part, str) for part in values):
        return [part for text in values for part in split_commas(text)]
    return value


COMMAS = BeforeValidator(_split)  # a flag or variable holds numbers with commas between them


def read_toml(path: Path | None) -> dict[str, Any]:
    """The options in a TOML file, or in the one `LLAMASTREAM_CONFIG` names; empty without either.

    Raises ConfigError when it cannot be read or holds an unknown key.
    """
    if path is None and (name := os.environ.get(ENV_PREFIX + "CONFIG")):
        path = Path(name)
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:  # of text, and of TOML in it
        raise ConfigError(f"--config {path}: {error}") from None
    known = {name for group in Settings.__subclasses__() for name in group.model_fields}
    if unknown := sorted(values.keys() - known):
        raise ConfigError(f"--config {path}: unknown keys {unknown}. Known: {sorted(known)}.")
    return values
