"""Interacting particles: each method a `blackjax.SamplingAlgorithm`."""

from samplers.particles.consensus import consensus_optimization, consensus_sampling
from samplers.particles.fictitious_play import (
    FictitiousPlayState,
    entropic_fictitious_play,
)
from samplers.particles.mean_field import mean_field_langevin, particle_descent
from samplers.particles.state import ParticleInfo, ParticleState
from samplers.particles.stein import svgd

__all__ = [
    "FictitiousPlayState",
    "ParticleInfo",
    "ParticleState",
    "consensus_optimization",
    "consensus_sampling",
    "entropic_fictitious_play",
    "mean_field_langevin",
    "particle_descent",
    "svgd",
]
