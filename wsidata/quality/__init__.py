"""The quality of slides (area, focus, artifacts, colors and stains) as a table and a report."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.quality.measure import SlideQuality as SlideQuality
    from wsidata.quality.measure import measure_quality as measure_quality
    from wsidata.quality.report import write_quality_report as write_quality_report
    from wsidata.quality.table import quality_table as quality_table

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "measure": ["SlideQuality", "measure_quality"],
        "report": ["write_quality_report"],
        "table": ["quality_table"],
    },
)
