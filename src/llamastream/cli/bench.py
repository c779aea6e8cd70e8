"""`llamastream bench`: online, offline, start."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from llamastream.bench.command import bench_offline, bench_online, bench_starts
from llamastream.bench.errors import BenchError
from llamastream.bench.offline import OfflineOptions
from llamastream.bench.online import OnlineOptions
from llamastream.bench.probe import parse_server
from llamastream.bench.roofline import traffic
from llamastream.bench.startup import StartedServer, StartOptions
from llamastream.bench.workload import Plan
from llamastream.cli.options import with_settings
from llamastream.cli.progress import progress_bars
from llamastream.config import BenchSettings, ModelSettings
from llamastream.wiring import find_model, load_runner

bench = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Measure servers, and the engine by itself.",
)
Url = Annotated[
    list[str],
    typer.Option(help="NAME=URL of an OpenAI-compatible server; several are run in alternation."),
]


@bench.command()
@with_settings(BenchSettings)
def online(
    options: BenchSettings,
    url: Url,
    model: Annotated[str | None, typer.Option(help="Model to ask for. [the first listed]")] = None,
    api_key: Annotated[str | None, typer.Option(help="Bearer token, sent to every server.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for PNG plots.")] = None,
    mixed: Annotated[
        bool, typer.Option(help="Also new prompts arriving while streams run.")
    ] = False,
) -> None:
    """Load servers over HTTP; tables, then one line of JSON."""
    plan = Plan(
        concurrency=options.streams(),
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        prefill_tokens=options.prefill_tokens,
        request_rates=options.rates(),
        beside=(8,) if mixed else (),
        arrivals_beside=(32,) if mixed else (),
    )
    run = OnlineOptions(
        tuple(url), plan.workloads(), rounds=options.rounds, model=model, api_key=api_key
    )
    if not bench_online(run, plots=plots):
        raise typer.Exit(1)


@bench.command()
@with_settings(ModelSettings, BenchSettings)
def offline(model: ModelSettings, options: BenchSettings) -> None:
    """Measure the engine in this process, without HTTP."""
    with progress_bars() as progress:
        checkpoint = find_model(model, progress)
        runner = load_runner(checkpoint, model, progress)
    run = OfflineOptions(
        concurrency=options.streams(),
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        prefill_tokens=options.prefill_tokens,
        rounds=options.rounds,
    )
    bench_offline(runner, model.engine_config(), traffic(checkpoint.config, model.dtype), run)


@bench.command()
def start(
    server: Annotated[
        list[str], typer.Option(help="'NAME=URL COMMAND ...': a server and what starts it.")
    ],
    rounds: Annotated[int, typer.Option(help="Starts of each server.")] = 3,
) -> None:
    """Measure the seconds from a server's command to its first token."""
    bench_starts([_started(text) for text in server], StartOptions(rounds=rounds))


def _started(text: str) -> StartedServer:
    address, *command = shlex.split(text)
    if not command:
        raise BenchError(f"--server must be 'NAME=URL COMMAND ...'. Given: {text!r}.")
    return StartedServer(tuple(command), parse_server(address))
