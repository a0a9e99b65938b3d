"""Exact channel statistics and class weights."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.stats.compute import channel_stats as channel_stats
    from wsidata.stats.compute import process_pool as process_pool
    from wsidata.stats.result import ChannelStats as ChannelStats
    from wsidata.stats.result import StatsError as StatsError
    from wsidata.stats.result import StatsWarning as StatsWarning

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "compute": ["channel_stats", "process_pool"],
        "result": ["ChannelStats", "StatsError", "StatsWarning"],
    },
)
