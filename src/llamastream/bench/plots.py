"""Pictures of a report: throughput against concurrency, and latency percentiles. Needs matplotlib.

One line per server, the same colour in every picture; the band spans the rounds.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llamastream.bench.errors import BenchError
from llamastream.bench.online import Cell, OnlineReport
from llamastream.bench.summary import METRICS, Metric, over_rounds
from llamastream.bench.workload import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers too (jfly.uni-koeln.de/color).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DPI = 150
GREY = "#555555"
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
    folder.mkdir(parents=True, exist_ok=True)
    names = [target.name for target in report.targets]
    return [_throughput(cells, names, folder), _latencies(cells, names, folder)]


def _in_sweep(workload: Workload) -> bool:
    """Whether it is a point of the curves: a closed loop of whole answers, with nothing beside."""
    closed = workload.concurrency is not None
    return closed and workload.output_tokens > 1 and not workload.background


def _throughput(cells: Sequence[Cell], names: Sequence[str], folder: Path) -> Path:
    figure = _new_figure(7.2, 4.6)
    axes = figure.subplots()
    _lines(axes, cells, names, _metric("output_tok_s"), with_numbers=True)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens per second, all streams together", color=GREY)
    axes.set_title("Throughput", loc="left", fontweight="bold")
    return _save(figure, axes, folder / "throughput.png")


def _latencies(cells: Sequence[Cell], names: Sequence[str], folder: Path) -> Path:
    from matplotlib.ticker import LogLocator

    titles = {"ttft": "Time to first token", "itl": "Time between chunks"}
    figure = _new_figure(10.5, 6.2)
    grid = figure.subplots(2, 3, sharex=True, sharey="row")
    for row, (name, title) in zip(grid, titles.items(), strict=True):
        for axes, quantile in zip(row, ("p50", "p90", "p99"), strict=True):
            _lines(axes, cells, names, _metric(f"{name}_ms.{quantile}"))
            axes.set_yscale("log", subs=[])  # no minor ticks
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:,g}")
            axes.set_title(f"{title}, {quantile}", loc="left", fontsize=10, fontweight="bold")
            axes.label_outer()
        row[0].set_ylabel("milliseconds", color=GREY)
    return _save(figure, grid[0][0], folder / "latency.png")


def _new_figure(width_inches: float, height_inches: float) -> "Figure":
    # Slow to import, and optional: asked for only when something is drawn.
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def _save(figure: "Figure", axes: "Axes", path: Path) -> Path:
    """Write the picture, with the legend taken from `axes`."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=DPI)
    return path


def _lines(
    axes: "Axes",
    cells: Sequence[Cell],
    names: Sequence[str],
    metric: Metric,
    *,
    with_numbers: bool = False,
) -> None:
    for number, name in enumerate(names):
        points = [
            (cell.workload.concurrency or 0, spread)
            for cell in cells
            if cell.server == name and (spread := over_rounds(cell.rounds, metric))
        ]
        if not points:
            continue
        points.sort()
        x = [concurrency for concurrency, _ in points]
        medians = [max(spread.median, SMALLEST) for _, spread in points]
        color = COLORS[number % len(COLORS)]
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(x, medians, color=color, marker=marker, label=name, linewidth=1.8)
        lows = [max(spread.low, SMALLEST) for _, spread in points]
        highs = [max(spread.high, SMALLEST) for _, spread in points]
        axes.fill_between(x, lows, highs, color=color, alpha=0.15, linewidth=0)
        if with_numbers:
            for at, median in zip(x, medians, strict=True):
                axes.annotate(
                    f"{median:,.0f}",
                    (at, median),
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    color=color,
                    fontsize=8,
                )
    _style(axes, sorted({cell.workload.concurrency or 0 for cell in cells}))


def _style(axes: "Axes", concurrencies: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(concurrencies, [str(c) for c in concurrencies])
    axes.minorticks_off()
    axes.margins(x=0.06, y=0.12)
    axes.set_xlabel("streams at once", color=GREY)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#bbbbbb")


def _metric(key: str) -> Metric:
    return next(metric for metric in METRICS if metric.key == key)
