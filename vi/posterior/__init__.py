"""Results: draws, densities, diagnostics and a verdict."""

from vi.posterior.diagnostics import Diagnostics, diagnose
from vi.posterior.drawn import Drawn
from vi.posterior.posterior import Posterior
from vi.posterior.psis import Psis, psis
from vi.posterior.verdict import Verdict

__all__ = ["Diagnostics", "Drawn", "Posterior", "Psis", "Verdict", "diagnose", "psis"]
