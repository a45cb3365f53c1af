"""Markov chains over the same targets as `vi.fit`, started from its approximations."""

from samplers.algorithms import HMC, MCLMC, NUTS, SGHMC, SGLD, DelayedAcceptance, Independence
from samplers.chains import Chains
from samplers.conformal import ConformalState, OnlineConformal, online_conformal
from samplers.convergence import Convergence
from samplers.mcmc import mcmc
from samplers.moments import MomentState, StochasticMoments, stochastic_moments
from samplers.nuts import nuts
from samplers.pathfinder import pathfinder
from samplers.population import Agreement, Population
from samplers.smc import smc
from samplers.structured import StructuredInfo, StructuredState, structured_sgld

__all__ = [
    "HMC",
    "MCLMC",
    "NUTS",
    "SGHMC",
    "SGLD",
    "Agreement",
    "Chains",
    "ConformalState",
    "Convergence",
    "DelayedAcceptance",
    "Independence",
    "MomentState",
    "OnlineConformal",
    "Population",
    "StochasticMoments",
    "StructuredInfo",
    "StructuredState",
    "mcmc",
    "nuts",
    "online_conformal",
    "pathfinder",
    "smc",
    "stochastic_moments",
    "structured_sgld",
]
