"""Draws the paper's experiments: one file each; the paper's figures beside ours."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import paper_figures
from paper_figures import Point


def draw(points: list[Point], folder: Path) -> list[Path]:
    """Writes `<experiment>.svg` of each experiment there is; returns what was written."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    # The same figures give the same bytes.
    mpl.rcParams["svg.hashsalt"] = "rostral"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for experiment in dict.fromkeys(point.experiment for point in points):
        figure, axes = plt.subplots(figsize=(6, 4))
        ours = [p for p in points if p.experiment == experiment]
        # Seconds until something is solved have no place on an axis of steps a second.
        ours = [p for p in ours if p.unit == ours[0].unit]
        series: dict[str, list[Point]] = defaultdict(list)
        for point in ours:
            series[point.series].append(point)
        for name, line in series.items():
            axes.plot([p.x for p in line], [p.value for p in line], marker="o", label=name)
        for name, theirs in _paper(experiment).items():
            axes.plot(list(theirs), list(theirs.values()), "--s", alpha=0.5, label=f"paper: {name}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(ours[0].x_is)
        axes.set_ylabel(ours[0].unit)
        axes.set_title(experiment)
        axes.legend(fontsize="small")
        axes.grid(visible=True, which="both", alpha=0.2)
        figure.tight_layout()
        path = folder / f"{experiment}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        written.append(path)
    return written


def _paper(experiment: str) -> dict[str, dict[int, float]]:
    """The paper's own series, on the same axes."""
    match experiment:
        case "simulation":
            return {k: dict(v) for k, v in paper_figures.SIMULATION.items()}
        case "serving":
            sizes = {"small": 4_096, "large": 102_400}
            names = ("Clipper", "Ray")
            return {
                n: {sizes[s]: float(v[n]) for s, v in paper_figures.SERVING.items()} for n in names
            }
        case "allreduce":
            return dict(paper_figures.ALLREDUCE)
    return {}
