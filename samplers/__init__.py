"""Markov chains over the same targets as `vi.fit`, started from its approximations."""

from samplers.chains import Chains
from samplers.convergence import Convergence
from samplers.nuts import nuts

__all__ = ["Chains", "Convergence", "nuts"]
