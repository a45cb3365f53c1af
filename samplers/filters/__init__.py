"""Particle filters for state-space models, with gradients through resampling."""

from samplers.filters.filter import Filtered, StateSpace, particle_filter
from samplers.filters.resampling import Resampling, Transport

__all__ = ["Filtered", "Resampling", "StateSpace", "Transport", "particle_filter"]
