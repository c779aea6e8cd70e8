"""`llamastream chat`: a conversation in the terminal."""

import asyncio
import contextlib
import readline
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llamastream.app import assemble
from llamastream.cli.answers import (
    Answers,
    LocalAnswers,
    Tools,
    read_tools_file,
)
from llamastream.cli.options import with_settings
from llamastream.cli.printing import Piece, print_text
from llamastream.cli.progress import progress_bars
from llamastream.config import AnswerSettings, DataSettings, ModelSettings
from llamastream.errors import ChatError, ConfigError
from llamastream.generation.log import joined_parts
from llamastream.types import Message, Reasoning, ToolCall, ToolResult, text_of

COMMANDS = """\
/new            forget the conversation
/system TEXT    set the system prompt and forget the conversation
/again          answer the last question once more
/thoughts       what was thought before the last answer
/help           this list
/exit           leave (Ctrl-D does too)
Ctrl-C stops an answer, not the program."""


@with_settings(ModelSettings, AnswerSettings)
def chat(
    model: ModelSettings,
    answer: AnswerSettings,
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(help="Talk to a running server, e.g. http://127.0.0.1:8000."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key for that server.", envvar="LLAMASTREAM_API_KEY")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    tools: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with a list of tools, as chats take it. You are asked for the results."
        ),
    ] = None,
) -> None:
    """Chat in the terminal, with a model loaded here or with a running server (--url)."""
    if url is not None:
        _refuse_flags_of_a_model(context)
    offered = [] if tools is None else read_tools_file(tools)
    with asyncio.Runner() as runner:
        if url is not None:
            from llamastream.cli.remote import RemoteAnswers  # imports an HTTP client

            answers: Answers = runner.run(RemoteAnswers.connect(url, api_key))
        else:
            with progress_bars() as progress:
                answers = runner.run(LocalAnswers.start(assemble(model, progress=progress)))
        history = model.data_dir / "history"
        try:
            _read_history(history)
            Conversation(runner, answers, answer, system, offered).loop()
        finally:
            _write_history(history)
            runner.run(answers.close())


def _refuse_flags_of_a_model(context: typer.Context) -> None:
    """Raises ConfigError: they say how one is loaded here, and the server has its own."""
    names = ModelSettings.model_fields.keys() - DataSettings.model_fields.keys()
    for name in sorted(names):
        if context.params[name] is not None:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} is for a model that is loaded here: leave out it or --url.")


class Conversation:
    """The log of turns, replayed with every question, and the prompt loop around it."""

    def __init__(
        self,
        runner: asyncio.Runner,
        answers: Answers,
        options: AnswerSettings,
        system: str | None,
        tools: Tools = (),
    ) -> None:
        self._runner = runner
        self._answers = answers
        self._options = options
        self._system = system
        self._tools = tools
        self._log: list[Message] = []
        self._thoughts = ""
        self._console = Console(highlight=False)

    def loop(self) -> None:
        """Ask and answer until the person leaves."""
        self._console.print(
            f"[bold]{self._answers.name}[/bold]  [dim]/help lists the commands[/dim]"
        )
        while (line := self._ask()) is not None:
            if line.startswith("/"):
                if self._command(line) == "exit":
                    return
            elif line:
                self._log.append(Message("user", line))
                self._answer()

    def _ask(self) -> str | None:
        try:
            return input("\n> ").strip()
        except KeyboardInterrupt:
            self._console.print("\n[dim]Ctrl-D or /exit leaves.[/dim]")
            return ""
        except EOFError:
            return None

    def _command(self, line: str) -> str:
        name, _, rest = line[1:].partition(" ")
        match name:
            case "exit" | "quit":
                return "exit"
            case "new":
                self._log.clear()
            case "system":
                self._system = rest.strip() or None
                self._log.clear()
            case "again" if len(self._log) > 1:
                self._log.pop()
                self._answer()
            case "thoughts":
                self._console.print(self._thoughts or "None.", style="dim", markup=False)
            case _:
                self._console.print(COMMANDS, markup=False)
        return name

    def _answer(self) -> None:
        """Print the answer as it comes and keep what was said, also if it is stopped half-way.
        While it calls tools, ask for what they say and go on."""
        question = len(self._log) - 1
        while calls := self._answer_once(question):
            for call in calls:
                result = self._result(call)
                if result is None:
                    del self._log[question:]  # no call is left without its result
                    return
                self._log.append(Message("tool", (ToolResult(call.id, result, call.kind),)))

    def _answer_once(self, question: int) -> list[ToolCall]:
        """The calls of one answer, which is in the log then. Of one without any text and calls
        nothing is kept, from its question's place on."""
        system = [Message("system", self._system)] if self._system else []
        answer = self._answers.stream((*system, *self._log), self._options, self._tools)
        pieces: list[Piece] = []
        is_whole = False
        try:
            self._runner.run(print_text(answer, pieces))
            is_whole = True
        except KeyboardInterrupt:
            self._console.print("[dim](stopped)[/dim]")
        except ChatError as error:
            self._console.print(f"[red]{error.message}[/red]")
        self._thoughts = "".join(part.text for part in pieces if isinstance(part, Reasoning))
        parts = joined_parts(part for part in pieces if isinstance(part, ToolCall))
        calls = [part for part in parts if isinstance(part, ToolCall)] if is_whole else []
        text = text_of(pieces)
        if text or calls:
            self._log.append(Message("assistant", (text, *calls) if calls else text))
        else:
            del self._log[question:]
        return calls

    def _result(self, call: ToolCall) -> str | None:
        """What a person says that a tool says; None to leave."""
        try:
            return input(f"{call.name}> ")
        except (KeyboardInterrupt, EOFError):
            self._console.print("\n[dim](left: the question is forgotten)[/dim]")
            return None


def _read_history(path: Path) -> None:
    with contextlib.suppress(OSError):  # a first start has none; an unreadable one is no loss
        readline.read_history_file(path)


def _write_history(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        readline.set_history_length(1000)
        readline.write_history_file(path)
