"""Heat maps of a trained network over slides and photos, as files."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from slidestream.heatmaps.draw import DrawnImage as DrawnImage
    from slidestream.heatmaps.draw import HeatmapOptions as HeatmapOptions
    from slidestream.heatmaps.draw import draw_heatmaps as draw_heatmaps
    from slidestream.heatmaps.draw import score_drawn as score_drawn
    from slidestream.heatmaps.lesions import LesionScores as LesionScores

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "draw": ["DrawnImage", "HeatmapOptions", "draw_heatmaps", "score_drawn"],
        "lesions": ["LesionScores"],
    },
)
