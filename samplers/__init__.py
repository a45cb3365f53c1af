"""Markov chains over the same targets as `vi.fit`, started from its approximations."""

from samplers.algorithms import HMC, MCLMC, NUTS, SGHMC, SGLD, DelayedAcceptance, Independence
from samplers.chains import Chains
from samplers.convergence import Convergence
from samplers.mcmc import mcmc
from samplers.nuts import nuts

__all__ = [
    "HMC",
    "MCLMC",
    "NUTS",
    "SGHMC",
    "SGLD",
    "Chains",
    "Convergence",
    "DelayedAcceptance",
    "Independence",
    "mcmc",
    "nuts",
]
