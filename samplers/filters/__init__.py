"""Particle filters for state-space models, with gradients through resampling."""

from samplers.filters.filter import Before, Filtered, StateSpace, particle_filter
from samplers.filters.objective import FilteringELBO
from samplers.filters.online import OnlineFilter, OnlineFilterState, online_filter
from samplers.filters.resampling import Resampling, Transport

__all__ = [
    "Before",
    "Filtered",
    "FilteringELBO",
    "OnlineFilter",
    "OnlineFilterState",
    "Resampling",
    "StateSpace",
    "Transport",
    "online_filter",
    "particle_filter",
]
