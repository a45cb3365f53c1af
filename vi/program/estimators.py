r"""Gradient estimators: how an objective's program is differentiated.

An estimator is a value, chosen apart from the objective: one for the whole guide, or one for
each sample site. Whatever the program computes from its draws, its gradient is

.. math::
    \nabla E_q[F(z)] = E[\underbrace{\nabla F(z)}_{\text{through the program}}]
    + \underbrace{\int F(z) \nabla q(z) dz}_{\text{through the law of the draws}},

and estimators differ in what they make of the second term.
"""

from collections.abc import Callable
from typing import Literal

from vi.module import module, static

ESTIMATED = "estimated"  # in `infer` of a factor: the density of the guide is only an estimate
Baseline = Literal["leave_one_out", "none"] | Callable


@module
class Pathwise:
    r"""Differentiate through the draws and through the density of q (reparameterisation).

    .. math:: z = T_φ(ε), \qquad \nabla_φ E_q[F_φ(z)] = E_ε[\nabla_φ F_φ(T_φ(ε))]

    Unbiased for reparameterised sites. The gradient keeps the noise of the score of q, which
    has mean zero, also where q is exact. Reference: Kingma and Welling (2014), "Auto-encoding
    variational Bayes".
    """


@module
class StickingTheLanding:
    r"""Differentiate through the draws only; the density of q has stopped parameters.

    .. math:: \nabla_φ\,\mathrm{ELBO} = E_ε[\nabla_z(\log p(z) - \log q(z))\, \partial_φ z]

    Unbiased for objectives that are linear in log q, as the ELBO, since the omitted score has
    mean zero, and without noise where q is exact; far from there its variance can exceed that of
    `Pathwise`. For all others it would be biased and is refused: `DoublyReparameterized` is its
    generalisation. Reference: Roeder, Wu and Duvenaud (2017), "Sticking the
    landing: simple, lower-variance gradient estimators for variational inference".
    """


@module
class DoublyReparameterized:
    r"""Reparameterise the score of q as well, whatever the objective.

    For an objective F of the log densities of K particles, the score of particle k has the
    coefficient :math:`F_k = \partial F / \partial \log q(z_k)`. As it depends on the particle,
    its mean is not zero; differentiated through the draw it becomes

    .. math:: E[F_k \nabla_φ \log q_φ(z_k)] = E\Big[\Big(\frac{\partial^2 F}{\partial \log q_k\,
        \partial \log p_k} \nabla_z \log p + \frac{\partial^2 F}{\partial \log q_k^2} \nabla_z
        \log q\Big) \partial_φ z_k\Big] .

    For the importance-weighted bound the weights :math:`\tilde w_k` of the path become
    :math:`\tilde w_k^2`, the estimator of the reference (its equation 8), whose signal-to-noise
    ratio grows with K where that of `Pathwise` falls; for the ELBO it is `StickingTheLanding`.
    Parameters of the model keep their ordinary gradient.

    Cost: that of two backward passes through the model, and K evaluations of F given the log
    densities. Reference: Tucker, Lawson, Gu and Maddison (2019), "Doubly reparameterized gradient
    estimators for Monte Carlo objectives".
    """


@module
class Score:
    r"""The score function, or likelihood ratio: for any site with a density, also discrete ones.

    .. math:: \int F(z) \nabla q(z) dz = E_q[(F(z) - b) \nabla \log q(z)]

    Of F only what depends on the site takes part: a site under a plate is weighted by the costs
    of its own datum; and where F is linear in the log densities, the gradient of the site's own
    density in F, which is mean-zero noise, is left out. With ``baseline="leave_one_out"``
    (default) b is the objective with the log densities of this particle replaced by the mean of
    those of the other particles. For the ELBO that is the leave-one-out estimator, identical to
    the gradient of the log-variance loss (VarGrad, `vi.log_variance`); for the
    importance-weighted bound it is VIMCO. It takes at least two particles.

    The support of the site must not depend on what is optimised: the formula would miss a term.

    Attributes:
      baseline: ``"leave_one_out"``, ``"none"``, or a function of the guide's arguments that
        predicts the objective of one datum (its shape broadcasts with the site's batch shape);
        it must not depend on the draws, and is not differentiated.

    References: Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for
    free!"; Mnih and Rezende (2016), "Variational inference for Monte Carlo objectives"; Richter,
    Boustati, Nüsken, Ruiz and Akyildiz (2020), "VarGrad: a low-variance gradient estimator for
    variational inference".
    """

    baseline: Baseline = static(default="leave_one_out")


@module
class Enumerate:
    r"""Sum over the support of a discrete site.

    .. math:: \int F(z) \nabla q(z) dz = \sum_v F(z_{s=v}) \nabla q_s(v)

    In a program that takes ``q.expect``, all values are evaluated and weighted: the site adds no
    noise at all. In one that takes equally weighted draws by ``q.sample``, such as the
    importance-weighted bound, the site is drawn, and the sum is taken for each particle with the
    others held fixed (local expectation gradients). Under a plate the rows are summed in
    parallel, each against its own costs; a site of several variables that are not under a plate
    is summed over all their joint values.

    Reference: Titsias and Lázaro-Gredilla (2015), "Local expectation gradients for black box
    variational inference".
    """


@module
class MeasureValued:
    r"""Measure-valued (weak) derivatives: differences of F between two laws.

    .. math:: \nabla_θ E_q[F] = c_θ \big(E_{q^+}[F] - E_{q^-}[F]\big)

    - Normal, location: :math:`c = 1/(σ\sqrt{2π})` at :math:`μ ± σR`, R of density
      :math:`r e^{-r²/2}`; scale: :math:`c = 1/σ`, :math:`μ + σM` against :math:`μ + σN`, M of
      density :math:`\tfrac{1}{\sqrt{2π}} m² e^{-m²/2}`, N standard normal.
    - Bernoulli and categorical: differences of F between values.
    - Poisson: :math:`E[F(z + 1) - F(z)]`.

    F need not be differentiable. The program is evaluated at two points for each parameter of
    each coordinate, in one batch, with common random numbers elsewhere.

    Reference: Mohamed, Rosca, Figurnov and Mnih (2020), "Monte Carlo gradient estimation in
    machine learning", section 6 and table 1.
    """


@module
class AcceptReject:
    r"""Reparameterise what an acceptance-rejection sampler accepts (RSVI); gamma, beta, Dirichlet.

    A draw is :math:`z = h(ε, θ)`, with ε accepted by the sampler. Its law depends on θ, so that

    .. math:: \int F \nabla q = E[\nabla_z F\,\partial_θ h]
        + E\big[F\,\partial_θ\big(\log q(h(ε, θ); θ) + \log |\partial_ε h|\big)\big] .

    Here h is Marsaglia and Tsang's, and the shape is raised by ``augment`` with as many
    uniforms, which shrinks the second, score-like term (equation 12 of the reference). JAX's own
    gradients of gamma draws are implicit and less noisy: they are what `Pathwise` uses. This rule
    is the general one.

    Attributes:
      augment: B ≥ 1, by how much the shape is raised.

    Reference: Naesseth, Ruiz, Linderman and Blei (2017), "Reparameterization gradients through
    acceptance-rejection sampling algorithms".
    """

    augment: int = static(default=1)


@module
class Relaxed:
    r"""A continuous relaxation of a Bernoulli site. **Biased**: by choice, never by default.

    .. math::
        z = \operatorname{sigmoid}\big((\operatorname{logit} p + \operatorname{logit} u) / τ\big)

    With ``straight_through`` the model sees the rounded value and the gradient is that of the
    relaxed one; without, the model sees the relaxed value.

    Attributes:
      temperature: τ > 0; the bias vanishes and the variance diverges as it goes to zero.
      straight_through: round the value in the forward pass.

    References: Maddison, Mnih and Teh (2017), "The concrete distribution: a continuous relaxation
    of discrete random variables"; Jang, Gu and Poole (2017), "Categorical reparameterization with
    Gumbel-softmax".
    """

    temperature: float = static(default=0.5)
    straight_through: bool = static(default=True)


PATHWISE = (Pathwise, StickingTheLanding, DoublyReparameterized)
SiteEstimator = (
    Pathwise
    | StickingTheLanding
    | DoublyReparameterized
    | Score
    | Enumerate
    | MeasureValued
    | AcceptReject
    | Relaxed
)
Estimator = SiteEstimator | dict[str, SiteEstimator]
