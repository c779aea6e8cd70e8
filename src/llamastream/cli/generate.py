"""`llamastream generate`: continue a text once."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from llamastream.app import assemble
from llamastream.cli.answers import LocalAnswers
from llamastream.cli.options import with_settings
from llamastream.cli.printing import print_text
from llamastream.cli.progress import progress_bars
from llamastream.config import AnswerSettings, ModelSettings
from llamastream.errors import ConfigError
from llamastream.types import GrammarKind, GrammarSpec


@with_settings(ModelSettings, AnswerSettings)
def generate(
    model: ModelSettings,
    answer: AnswerSettings,
    prompt: Annotated[str, typer.Argument(help="Text to continue; '-' reads standard input.")],
    schema: Annotated[
        Path | None,
        typer.Option(help="JSON schema that what follows must fit.", metavar="FILE"),
    ] = None,
) -> None:
    """Continue a text, printed as it is generated. No chat template is applied."""
    grammar = None if schema is None else _grammar(schema)
    text = sys.stdin.read() if prompt == "-" else prompt
    with asyncio.Runner() as runner:
        with progress_bars() as progress:
            answers = runner.run(LocalAnswers.start(assemble(model, progress=progress)))
        start = time.perf_counter()
        try:
            runner.run(print_text(answers.stream(text, answer, grammar=grammar), [], before=text))
            print(f"{time.perf_counter() - start:.2f} s", file=sys.stderr)
        except KeyboardInterrupt:
            pass  # what there is has been printed
        finally:
            runner.run(answers.close())


def _grammar(path: Path) -> GrammarSpec:
    """Raises ConfigError for a file that cannot be read. What is in it is looked at with the
    model's vocabulary."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--schema: {path} cannot be read: {error}.", param="schema") from error
    return GrammarSpec(GrammarKind.JSON_SCHEMA, text, param="--schema")
