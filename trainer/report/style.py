"""The look of all plots: one width, one palette, a light background; matplotlib's own settings stay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
"""Of Okabe and Ito's palette, told apart with any kind of colour vision (Color Universal Design, 2008)."""
GREY = "#8C8C8C"
"""For what knowing nothing gets."""
GENUINE, GENERATED = BLUE, ORANGE
SIZE_IN = (8.0, 4.5)
DPI = 150
"""1200 pixels wide: sharp where a page shows it at 800."""
STYLE: dict[str, Any] = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "axes.axisbelow": True,
    "lines.linewidth": 2.2,
    "legend.fontsize": 11,
    "legend.edgecolor": "white",
    "figure.facecolor": "white",
}
P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with :data:`STYLE`: matplotlib looks at its settings whenever an artist is made."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _style():
            return draw(*args, **kwargs)

    return drawn


def panels(count: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels side by side."""
    figure = Figure(figsize=SIZE_IN, layout="constrained")
    return figure, [figure.add_subplot(1, count, k + 1) for k in range(count)]


def legend_below(figure: Figure) -> None:
    """Explain all lines under the panels: inside, some run's curve always lies behind the legend."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=min(3, len(entries)),
        frameon=False,
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    with _style():
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _style() -> AbstractContextManager[None]:
    # From the library's defaults: a matplotlibrc of the user's own must not change the report.
    return style.context(STYLE, after_reset=True)
