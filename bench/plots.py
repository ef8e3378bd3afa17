"""The two plots of bench/README.md, made from a result: cost by flows, packets per second by their size."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.results import Result, Row

STYLES = {
    "ours": ("vpn-classifier", "#0b5fa5", "o"),
    "floor": ("floor: reads and counts by five-tuple", "#555555", "s"),
    "ndpiReader": ("ndpiReader", "#b3471d", "^"),
    "nfstream": ("nfstream", "#7a3b8f", "v"),
}


def draw(result: Result, name: str, directory: Path) -> None:
    """Both plots; `name` is the result's, and stands in their metadata."""
    _one(
        directory / "flows.svg",
        f"Result {name}",
        result.of("flows"),
        "flows",
        lambda nanoseconds: nanoseconds,
        ("flows in the mix", "CPU ns per packet (less is better)"),
    )
    _one(
        directory / "sizes.svg",
        f"Result {name}",
        result.of("sizes"),
        "octets",
        lambda nanoseconds: 1e3 / nanoseconds,
        ("octets of a frame, 10,000 flows", "million packets per second of one core (more is better)"),
    )


def _one(
    path: Path,
    title: str,
    rows: Sequence[Row],
    by: str,
    shown: Callable[[float], float],
    labels: tuple[str, str],
) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    # Text stays text, and the same figures give the same file.
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        for column, (label, color, marker) in STYLES.items():
            points = [
                (row.detail[by], shown(row.ours if column == "ours" else row.others[column]))
                for row in rows
                if column == "ours" or column in row.others
            ]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, color=color, marker=marker, markersize=4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([row.detail[by] for row in rows])
        plain = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axes.legend(frameon=False, fontsize=9)
        figure.savefig(path, metadata={"Date": None, "Title": title})
        pyplot.close(figure)
