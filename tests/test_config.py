"""Options come from flags, then the environment, then the TOML file, then the default."""

from pathlib import Path
from typing import Any

import pytest

from llamastream.config import AnswerSettings, ModelSettings, ServeSettings
from llamastream.errors import ConfigError, InvalidRequest
from llamastream.sampling import SamplingParams
from llamastream.settings import read_toml


def test_flag_beats_environment_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    toml = {"max_num_seqs": 3, "threads": 3, "model": "file"}
    monkeypatch.setenv("LLAMASTREAM_MAX_NUM_SEQS", "2")
    monkeypatch.setenv("LLAMASTREAM_THREADS", "2")
    settings = ModelSettings.load({"max_num_seqs": 1}, toml)
    assert (settings.max_num_seqs, settings.threads, settings.model) == (1, 2, "file")
    assert settings.dtype == "int8"


def test_a_bad_value_is_refused_with_its_flag_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMASTREAM_PORT", "70000")
    with pytest.raises(ConfigError, match=r"--port .*LLAMASTREAM_PORT.*65535.*70000"):
        ServeSettings.load({}, {})


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("temperature", 0.0, 100.0), ("top_p", 1e-9, 1.0), ("seed", 0, 2**64 - 1),
     ("max_tokens", 1, 2**31 - 1)],
)  # fmt: skip
def test_an_answer_is_drawn_by_what_a_request_may_ask(name: str, first: Any, last: Any) -> None:
    """So that nothing is loaded for what would be refused."""
    for value in (first, last):
        settings = AnswerSettings.load({name: value}, {})
        SamplingParams(**settings.model_dump(exclude_none=True))
    for value in (first - 1, last + 1):
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} "):
            AnswerSettings.load({name: value}, {})
    with pytest.raises(InvalidRequest):
        SamplingParams(**{name: last + 1})


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
def test_a_variable_without_a_key_in_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """It would let everybody in, on a public address, too."""
    monkeypatch.setenv("LLAMASTREAM_API_KEY", value)
    with pytest.raises(ConfigError, match=r"--api-key .* must hold a key; leave it out for none"):
        ServeSettings.load({}, {})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("port", 70000, "must be less than or equal to 65535. Given: 70000."),
        ("log_level", "loud", "must be 'debug', 'info', 'warning' or 'error'. Given: 'loud'."),
        ("page", "perhaps", "must be a valid boolean, unable to interpret input. Given: "),
    ],
)
def test_an_error_says_what_a_value_must_be(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServeSettings.load({name: value}, {})
    assert message in caught.value.message


def test_toml_is_read_from_the_variable_and_shared_by_all_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "llamastream.toml"
    path.write_text('port = 9000\nmodel = "demo"\ntemperature = 0.0\n')
    monkeypatch.setenv("LLAMASTREAM_CONFIG", str(path))
    assert ServeSettings.load({}, read_toml(None)).port == 9000


@pytest.mark.parametrize(
    ("text", "message"),
    [("prot = 9000", "unknown keys .'prot'"), ("port = ", "Invalid value"), (None, "No such file")],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "llamastream.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_toml(path)
    assert str(path) in caught.value.message


def test_gibibytes_become_bytes() -> None:
    assert ModelSettings(kv_cache_gib=0.5).engine_config().kv_cache_bytes == 2**29
