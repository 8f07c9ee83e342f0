"""Plots of a job: budgets before and after, and released metrics by round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEFORE, SPENT, LEFT = "#9aa5b1", "#d9822b", "#3d7a5a"


def draw(
    directory: Path, curve: list[dict[str, float]], balances: dict[str, Any]
) -> dict[str, str]:
    """Write the plots that there is something to show for; return their file names."""
    import matplotlib

    matplotlib.use("Agg")
    plots = {}
    if balances:
        plots["budget"] = _budget(directory / "budget.png", balances)
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
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path.name


def _curve(path: Path, curve: list[dict[str, float]]) -> str:
    from matplotlib import pyplot

    names = [name for name in ("log_loss", "accuracy", "auc") if name in curve[0]]
    figure, axes = pyplot.subplots(
        1, len(names), figsize=(3.6 * len(names), 2.8), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot([p["round"] for p in curve], [p[name] for p in curve], marker="o", color=LEFT)
        axis.set_title(name.replace("_", " "), loc="left")
        axis.set_xlabel("round")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path.name
