"""Plots of a job: budgets before and after, released metrics by silo, and by round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEFORE, SPENT, LEFT = "#9aa5b1", "#d9822b", "#3d7a5a"

METRICS = ("log_loss", "accuracy", "auc")


def draw(directory: Path, curve: list[dict[str, Any]], balances: dict[str, Any]) -> dict[str, str]:
    """Write the plots that there is something to show for; return their file names."""
    import matplotlib

    matplotlib.use("Agg")
    plots = {}
    balances = {s: b for s, b in balances.items() if b["after"]["used"] is not None}
    if balances:
        plots["budget"] = _budget(directory / "budget.png", balances)
    if curve:
        plots["metrics"] = _metrics(directory / "metrics.png", curve[-1])
    if len(curve) > 1:
        plots["curve"] = _curve(directory / "curve.png", curve)
    return plots


def _budget(path: Path, balances: dict[str, Any]) -> str:
    from matplotlib import pyplot

    silos = list(balances)
    before = [100 * balances[s]["before"]["used"] for s in silos]
    after = [100 * balances[s]["after"]["used"] for s in silos]
    taken = [max(0.0, b - a) for a, b in zip(before, after, strict=True)]
    left = [max(0.0, 100 - b) for b in after]
    figure, axis = pyplot.subplots(figsize=(7, 0.6 * len(silos) + 1.6), layout="constrained")
    axis.barh(silos, before, color=BEFORE, label="used before", hatch="//", edgecolor="white")
    axis.barh(silos, taken, left=before, color=SPENT, label="this job")
    axis.barh(silos, left, left=after, color=LEFT, alpha=0.35, label="left")
    for place, (start, width) in enumerate(zip(before, taken, strict=True)):
        axis.annotate(
            f"{width:.1f} %",
            (start + width, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axis.set_xlim(0, 100)
    axis.invert_yaxis()
    axis.set_xlabel("share of the account, %")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.28), ncols=3, frameon=False)
    return _saved(figure, path)


def _metrics(path: Path, last: dict[str, Any]) -> str:
    """The last released metrics of each silo, with their intervals."""
    lines = {**last["silos"], "all silos": last}
    figure, axes = _panels(last, height=0.4 * len(lines) + 1.2)
    for axis, name in axes:
        for place, line in enumerate(lines.values()):
            color = SPENT if line is last else LEFT
            value, span = line[name], line.get("intervals", {}).get(name)
            if value is None:
                axis.annotate("not resolvable", (0.02, place), va="center", color=BEFORE)
                continue
            if span:
                axis.plot(span, [place, place], color=color, linewidth=2)
            axis.plot([value], [place], marker="o", color=color)
        axis.set_yticks(range(len(lines)), list(lines))
        axis.set_ylim(len(lines) - 0.5, -0.5)
        axis.set_xlim(left=0.0, right=None if name == "log_loss" else 1.02)
    return _saved(figure, path)


def _curve(path: Path, curve: list[dict[str, Any]]) -> str:
    """The released metrics over all silos, by round."""
    figure, axes = _panels(curve[0], height=2.8)
    for axis, name in axes:
        axis.plot([p["round"] for p in curve], [p[name] for p in curve], marker="o", color=LEFT)
        axis.set_xlabel("round")
    return _saved(figure, path)


def _panels(metrics: dict[str, Any], *, height: float) -> tuple[Any, list[tuple[Any, str]]]:
    """A figure with one panel for each metric that there is."""
    from matplotlib import pyplot

    names = [name for name in METRICS if name in metrics]
    size = (3.6 * len(names), height)
    figure, axes = pyplot.subplots(1, len(names), figsize=size, layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name.replace("_", " "), loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(zip(axes[0], names, strict=True))


def _saved(figure: Any, path: Path) -> str:
    from matplotlib import pyplot

    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path.name
