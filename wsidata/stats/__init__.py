"""Exact channel statistics and class weights."""

from wsidata.stats.compute import channel_stats as channel_stats
from wsidata.stats.compute import process_pool as process_pool
from wsidata.stats.result import ChannelStats as ChannelStats
from wsidata.stats.result import StatsError as StatsError
from wsidata.stats.result import StatsWarning as StatsWarning
