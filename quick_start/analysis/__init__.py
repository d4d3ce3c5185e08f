"""Looks at what runs left behind: pictures side by side, curves, tables, films.

Every function returns what it made. As the last line of a cell it is shown, once; elsewhere
``display(...)`` shows it.
"""

from quick_start.analysis.compare import compare_batch_results
from quick_start.analysis.panels import view_results
from quick_start.analysis.playback import play_video
from quick_start.analysis.plots import load_metrics, plot_metrics
from quick_start.analysis.slider import compare_slider

__all__ = [
    "compare_batch_results",
    "compare_slider",
    "load_metrics",
    "play_video",
    "plot_metrics",
    "view_results",
]
