"""One settings field is one command line option, with its variable and TOML key."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from llamastream.cli.options import with_settings
from llamastream.config import AnswerSettings, EngineSettings, ModelSettings
from llamastream.errors import ConfigError

Seen = list[tuple[ModelSettings, AnswerSettings, str]]


@pytest.fixture
def seen() -> Seen:
    return []


@pytest.fixture
def app(seen: Seen) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @with_settings(ModelSettings, AnswerSettings)
    def command(model: ModelSettings, answer: AnswerSettings, text: str) -> None:
        seen.append((model, answer, text))

    return app


def test_flags_reach_their_groups_and_the_commands_own_arguments(
    app: typer.Typer, seen: Seen
) -> None:
    arguments = ["hello", "--max-num-seqs", "4", "--temperature", "0", "--no-prefix-caching"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    [(model, answer, text)] = seen
    assert (model.max_num_seqs, model.prefix_caching) == (4, False)
    assert (answer.temperature, text) == (0.0, "hello")


def test_a_flag_wins_over_variable_and_file(
    app: typer.Typer, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "options.toml"
    path.write_text("threads = 3\nmax_num_seqs = 3\nmax_num_waiting = 3\n")
    monkeypatch.setenv("LLAMASTREAM_THREADS", "2")
    monkeypatch.setenv("LLAMASTREAM_MAX_NUM_SEQS", "2")
    arguments = ["hello", "--config", str(path), "--threads", "1"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    [(model, _, _)] = seen
    assert (model.threads, model.max_num_seqs, model.max_num_waiting) == (1, 2, 3)


def test_a_value_out_of_range_is_a_configuration_error(app: typer.Typer) -> None:
    with pytest.raises(ConfigError, match="--max-num-seqs"):
        CliRunner().invoke(app, ["hello", "--max-num-seqs", "0"], catch_exceptions=False)


def test_help_names_every_option_with_its_default(app: typer.Typer) -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for name, field in {**ModelSettings.model_fields, **AnswerSettings.model_fields}.items():
        assert "--" + name.replace("_", "-") in text
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"[{field.default}]" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--engine-url", "http://a:1", "--engine-url", "http://b:2"],
        ["--engine-url", "http://a:1, http://b:2"],
    ],
)
def test_an_option_with_several_values_takes_flags_and_commas(arguments: list[str]) -> None:
    seen = []
    app = typer.Typer()

    @app.command()
    @with_settings(EngineSettings)
    def command(engines: EngineSettings) -> None:
        seen.append(engines.engine_url)

    for given in (arguments, []):
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert seen == [("http://a:1", "http://b:2"), ()]
