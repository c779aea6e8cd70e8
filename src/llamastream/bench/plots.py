"""Pictures of a report: throughput against concurrency, and latency percentiles. Needs matplotlib.

One colour per server, the same in every picture; bands and whiskers span the rounds.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llamastream.bench.errors import BenchError
from llamastream.bench.online import Cell, OnlineReport
from llamastream.bench.summary import Spread, over_rounds
from llamastream.bench.workload import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers too (jfly.uni-koeln.de/color).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DPI = 150
GREY = "#555555"
LATENCIES = {"ttft_ms": "Time to first token", "itl_ms": "Time between chunks"}
SMALLEST = 0.01  # ms: chunks that arrive together are 0 apart, which a log axis has no place for


def check_can_draw(workloads: Sequence[Workload]) -> None:
    """Raises BenchError if pictures of these workloads cannot be drawn: to be known beforehand."""
    if len({workload.concurrency for workload in workloads if _in_sweep(workload)}) < 2:
        raise BenchError("plots need at least two values of concurrency", param="plots")
    if find_spec("matplotlib") is None:
        raise BenchError(
            "plots need matplotlib: pip install 'llamastream[bench]', or run without plots",
            param="plots",
        )


def draw(report: OnlineReport, folder: Path) -> list[Path]:
    """Write the sweep's PNGs into `folder`, which is made if missing. Cells that failed are left
    out; if all did, there is nothing to draw. Raises BenchError as `check_can_draw` does."""
    check_can_draw(report.options.workloads)
    cells = [cell for cell in report.cells if _in_sweep(cell.workload) and not cell.error]
    if not cells:
        return []
    # Slow to import, and optional: asked for only when something is drawn.
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    names = [target.name for target in report.targets]
    paths = []
    for name, size, fill in (
        ("throughput.png", (7.2, 4.2), _throughput),
        ("latency.png", (7.2, 5.6), _latencies),
    ):
        figure = Figure(figsize=size, layout="constrained")
        fill(cells, names, figure)
        paths.append(_save(report, figure, folder / name))
    return paths


def _in_sweep(workload: Workload) -> bool:
    """Whether it is a point of the curves: a closed loop of whole answers, with nothing beside."""
    closed = workload.concurrency is not None
    return closed and workload.output_tokens > 1 and not workload.background


def _throughput(cells: Sequence[Cell], names: Sequence[str], figure: "Figure") -> None:
    axes = figure.subplots()
    streams = sorted({cell.workload.concurrency or 0 for cell in cells})
    width = 0.8 / max(len(names), 2)
    for number, name in enumerate(names):
        points = _points(cells, name, "output_tok_s")
        if not points:
            continue
        x = [streams.index(c) + width * (number - (len(names) - 1) / 2) for c, _ in points]
        medians = [spread.median for _, spread in points]
        reach = [
            [spread.median - spread.low for _, spread in points],
            [spread.high - spread.median for _, spread in points],
        ]
        bars = axes.bar(
            x,
            medians,
            width * 0.92,
            yerr=reach,
            color=COLORS[number % len(COLORS)],
            error_kw={"ecolor": GREY, "elinewidth": 1},
            label=name,
        )
        axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=8, color=GREY)
    axes.set_xticks(range(len(streams)), [str(c) for c in streams])
    axes.set_ylabel("tokens per second, all streams together", color=GREY)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("Throughput", loc="left", fontweight="bold")
    _style(axes)


def _latencies(cells: Sequence[Cell], names: Sequence[str], figure: "Figure") -> None:
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, (key, title) in zip(grid, LATENCIES.items(), strict=True):
        for axes, quantile in zip(row, ("p50", "p99"), strict=True):
            _lines(axes, cells, names, f"{key}.{quantile}")
            axes.set_title(f"{title}, {quantile}", loc="left", fontsize=10, fontweight="bold")
            _style(axes)
            axes.label_outer()
        row[0].set_ylabel("milliseconds", color=GREY)


def _lines(axes: "Axes", cells: Sequence[Cell], names: Sequence[str], key: str) -> None:
    from matplotlib.ticker import LogLocator

    for number, name in enumerate(names):
        points = _points(cells, name, key)
        x = [concurrency for concurrency, _ in points]
        low, median, high = (
            [max(getattr(spread, field), SMALLEST) for _, spread in points]
            for field in ("low", "median", "high")
        )
        color = COLORS[number % len(COLORS)]
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(x, median, color=color, marker=marker, label=name, linewidth=1.8)
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    streams = sorted({cell.workload.concurrency or 0 for cell in cells})
    axes.set_xscale("log", base=2)
    axes.set_xticks(streams, [str(c) for c in streams])
    axes.set_yscale("log", subs=[])  # no minor ticks
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.margins(x=0.06, y=0.12)


def _points(cells: Sequence[Cell], name: str, key: str) -> list[tuple[int, Spread]]:
    """Concurrency and what a server reached there, in rising order."""
    return sorted(
        (cell.workload.concurrency or 0, spread)
        for cell in cells
        if cell.server == name and (spread := over_rounds(cell.rounds, key))
    )


def _save(report: OnlineReport, figure: "Figure", path: Path) -> Path:
    """Add the legend and what was measured, and write the picture."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
    sweep = next(filter(_in_sweep, report.options.workloads))
    rounds = report.options.rounds
    measured = f"{sweep.prompt_tokens} tokens in, {sweep.output_tokens} out for each request"
    if rounds > 1:
        measured += f"; medians of {rounds} rounds, with the lowest and highest"
    figure.supxlabel(f"streams at once\n{measured}", fontsize=9, color=GREY)
    figure.savefig(path, dpi=DPI)
    return path


def _style(axes: "Axes") -> None:
    axes.tick_params(colors=GREY)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#bbbbbb")
