r"""Gradient estimators: how an objective's program is differentiated.

An estimator is a value, chosen apart from the objective. It hands the program a view of q's
density with live or stopped parameters; the sampling path is live in all of them.
"""

from typing import TypeVar

import jax

from vi.module import module

Q = TypeVar("Q")


@module
class Pathwise:
    """Differentiate through the draws and through the density of q (reparameterisation).

    Unbiased for reparameterised sites. The gradient keeps the noise of the score of q, which
    has mean zero, also where q is exact. Reference: Kingma and Welling (2014), "Auto-encoding
    variational Bayes".
    """

    def density(self, q: Q) -> Q:
        """The parameters at which the program evaluates the density of q: live."""
        return q


@module
class StickingTheLanding:
    r"""Differentiate through the draws only; the density of q has stopped parameters.

    .. math:: \nabla_φ\,\mathrm{ELBO} = E_ε[\nabla_z(\log p(z) - \log q(z))\, \partial_φ z]

    Unbiased for the ELBO, since the omitted score has mean zero, and without noise where q is
    exact; far from there its variance can exceed that of `Pathwise`. Not for other objectives.
    Reference: Roeder, Wu and Duvenaud (2017), "Sticking the landing: simple, lower-variance
    gradient estimators for variational inference".
    """

    def density(self, q: Q) -> Q:
        """The parameters at which the program evaluates the density of q: stopped."""
        return jax.lax.stop_gradient(q)


Estimator = Pathwise | StickingTheLanding
