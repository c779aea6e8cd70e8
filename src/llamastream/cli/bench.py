"""`llamastream bench`: online, offline, start, gpu; tables, and at the end one line of JSON."""

import asyncio
import shlex
from pathlib import Path
from typing import Annotated

import orjson
import typer
import uvloop

from llamastream.app import find_model, load_runner, packed_bytes
from llamastream.bench import offline_report, online_report
from llamastream.bench.console import show
from llamastream.bench.errors import BenchError
from llamastream.bench.gpu_command import bench_gpu
from llamastream.bench.machine import measure_bounds
from llamastream.bench.offline import run_offline
from llamastream.bench.online import OnlineOptions, run_online
from llamastream.bench.openai import RequestOptions
from llamastream.bench.plots import check_can_draw, draw
from llamastream.bench.probe import parse_server
from llamastream.bench.roofline import Roofline, roofline
from llamastream.bench.startup import StartedServer, run_starts
from llamastream.bench.workload import plan
from llamastream.cli.options import with_settings
from llamastream.cli.progress import progress_bars
from llamastream.config import BenchSettings, LoadSettings, ModelSettings
from llamastream.models import Checkpoint

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
@with_settings(BenchSettings, LoadSettings)
def online(
    settings: BenchSettings,
    load: LoadSettings,
    url: Url,
    model: Annotated[str | None, typer.Option(help="Model to ask for. [the first listed]")] = None,
    api_key: Annotated[str | None, typer.Option(help="Bearer token, sent to every server.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for PNG plots.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="What they serve, as `serve --model` names it: shows the share of the machine's "
            "memory bandwidth (of the first server) and arithmetic that they reach."
        ),
    ] = None,
) -> None:
    """Load servers over HTTP; tables, then one line of JSON."""
    options = OnlineOptions(
        tuple(url),
        plan(settings, load),
        rounds=settings.rounds,
        model=model,
        api_key=api_key,
        request=RequestOptions(load.api, load.ignore_eos),
        roofline=_roofline_of(weights) if weights else None,
    )
    if plots is not None:
        check_can_draw(options.workloads)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(run_online(options))
    show(online_report.render(report))
    if plots is not None:
        for path in draw(report, plots):
            print(path)
    print(online_report.to_json(report), flush=True)
    if report.failed:
        raise typer.Exit(1)


@bench.command()
@with_settings(ModelSettings, BenchSettings)
def offline(model: ModelSettings, settings: BenchSettings) -> None:
    """Measure the engine in this process, without HTTP, on the CPU."""
    if model.device not in ("auto", "cpu"):
        raise BenchError(
            f"device must be auto or cpu. Given: {model.device}. For a GPU: llamastream bench gpu."
        )
    with progress_bars() as progress:
        checkpoint = find_model(model, progress)
        runner = load_runner(checkpoint, model, "cpu", progress)
    report = run_offline(
        runner,
        model.engine_config(),
        _roofline(checkpoint, model),
        settings,
        bounds=lambda: measure_bounds(model.dtype, model.threads, model.isa),
    )
    show(offline_report.render(report))
    print(offline_report.to_json(report), flush=True)


@bench.command()
def start(
    server: Annotated[
        list[str], typer.Option(help="'NAME=URL COMMAND ...': a server and what starts it.")
    ],
    rounds: Annotated[int, typer.Option(min=1, help="Starts of each server.")] = 3,
) -> None:
    """Measure the seconds from a server's command to its first token."""
    found = asyncio.run(run_starts([_started(text) for text in server], rounds))
    for name, (median, low, high) in found.items():
        print(f"{name}: {median:.2f} s from start to first token ({low:.2f}-{high:.2f})")
    seconds = {name: spread._asdict() for name, spread in found.items()}
    print(orjson.dumps({"benchmark": "start", "seconds": seconds}).decode(), flush=True)


@bench.command()
def gpu(
    out: Annotated[Path, typer.Option(help="File for the numbers, as JSON.")] = Path(
        "gpu-bench.json"
    ),
    sections: Annotated[
        str | None, typer.Option(help="ceilings, tiles or a precision, with commas. [all]")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda or cuda:1.")] = "cuda",
) -> None:
    """Measure a GPU with random weights of Llama-2-7B's shape; a table, then one line of JSON."""
    bench_gpu(out, sections, device)


def _started(text: str) -> StartedServer:
    address, *command = shlex.split(text)
    if not command:
        raise BenchError(f"--server must be 'NAME=URL COMMAND ...'. Given: {text!r}.")
    return StartedServer(tuple(command), parse_server(address))


def _roofline_of(name: str) -> Roofline:
    settings = ModelSettings.load({"model": name}, {})
    with progress_bars() as progress:
        return _roofline(find_model(settings, progress), settings)


def _roofline(checkpoint: Checkpoint, settings: ModelSettings) -> Roofline:
    size = packed_bytes(checkpoint, settings)
    return roofline(checkpoint.config, settings.dtype, packed_bytes=size)
