r"""Gradient estimators: how an objective's program is differentiated.

An estimator is a value, chosen apart from the objective: one for the whole guide, or one for
each sample site. Whatever the program computes from its draws, its gradient is

.. math::
    \nabla E_q[F(z)] = E[\underbrace{\nabla F(z)}_{\text{through the program}}]
    + \underbrace{\int F(z) \nabla q(z) dz}_{\text{through the law of the draws}},

and estimators differ in what they make of the second term.
"""

from collections.abc import Callable

from vi.module import module, static
from vi.program.scores import RunningScore, Score

ESTIMATED = "estimated"  # in `infer` of a factor: the density of the guide is only an estimate


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

    Parameters θ of the model keep their ordinary gradient, unless ``model`` is set. Then the
    score of each latent site z of the model that has a path of its own, as a draw of Normal or
    any scalar law with a ``cdf``, is reparameterised too (generalised double reparameterisation).
    With :math:`c_k = \partial F / \partial \log p_θ(z_k)`, and :math:`z_k` moved by θ as a draw of
    :math:`p_θ` at its quantile would be,

    .. math:: E[c_k \nabla_θ \log p_θ(z_k)] = E\Big[\big(\nabla_z c_k
        + c_k \nabla_z \log \tfrac{q(z_k)}{p_θ(z_k)}\big)\, \partial_θ z_k\Big] .

    It pays where the parameters of priors are learnt with many particles.

    Attributes:
      model: also reparameterise the scores of the model's latent sites.

    Cost: that of two backward passes through the model, three with ``model``, and K evaluations
    of F given the log densities. References: Tucker, Lawson, Gu and Maddison (2019), "Doubly
    reparameterized gradient estimators for Monte Carlo objectives"; Bauer and Mnih (2021),
    "Generalized doubly reparameterized gradient estimators".
    """

    model: bool = static(default=False)


@module
class PathGradient:
    r"""`StickingTheLanding` by the family's own recursion for the gradient of its log density.

    .. math:: \nabla_φ\,\mathrm{ELBO} = E_ε\big[(\nabla_z \log p(z) - s)\, \partial_φ T_φ(ε)\big],
        \qquad s = \nabla_z \log q_φ(z)

    A flow's density at a draw needs the inverse of the flow, but s can be carried along with the
    draw: after a layer T with Jacobian J it is :math:`J^{-\top}(s - \nabla \log |\det J|)`. A
    family that can do so has a method ``draw_and_score(noise)``, which returns draws ``(K, D)``,
    their log densities ``(K,)`` and their scores ``(K, D)``, in the order of ``draw(noise)``;
    nothing of it but the draws is differentiated. For families without it, and for sites of a
    guide, this is `StickingTheLanding`, to rounding. Valid for the same objectives.

    Reference: Vaitl, Winkler, Richter and Kessel (2024), "Fast and unified path gradient
    estimators for normalizing flows".
    """


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
    - Bernoulli and categorical: differences of F between the value drawn and the others.
    - Poisson: :math:`E[F(z + 1) - F(z)]`.
    - Gamma, rate: :math:`c = α/β` at z against :math:`z + e/β`, e of unit exponential law; shape:
      :math:`c = (α + i + 1)/α` at z against :math:`z\, u^{1/(α + i)}`, u uniform, i of
      probability :math:`α/((α + i)(α + i + 1))`, from the product of powers of uniforms that a
      gamma variable is in law.

    F need not be differentiable. The program is evaluated at the draw and at one point for each
    bit of a Bernoulli site, C - 1 for each variable of C categories, one for a Poisson variable,
    two for a gamma and four for a normal one, in one batch, with common random numbers elsewhere.
    For families on the flat vector: mean-field Gaussians.

    Reference: Mohamed, Rosca, Figurnov and Mnih (2020), "Monte Carlo gradient estimation in
    machine learning", section 6 and table 1.
    """


@module
class AcceptReject:
    r"""Reparameterise what an acceptance-rejection sampler accepts (RSVI).

    A draw is :math:`z = h(ε, θ)`, with ε accepted by the sampler. Its law depends on θ, so that

    .. math:: \int F \nabla q = E[\nabla_z F\,\partial_θ h]
        + E\big[F\,\partial_θ\big(\log q(h(ε, θ); θ) + \log |\partial_ε h|\big)\big] .

    The second, score-like term is small where the sampler accepts nearly always. The sampler
    itself is not needed: z may be drawn in any way, and ε found by inverting h. Known are

    - gamma, beta and Dirichlet: Marsaglia and Tsang's h, the shape raised by ``augment`` with as
      many uniforms, which shrinks the second term (equation 12 of the reference). JAX's own
      gradients of gamma draws are implicit and less noisy: they are what `Pathwise` uses.
    - von Mises: Best and Fisher's, the quantile function of a wrapped Cauchy law. What depends on
      the angle must be continuous on the circle.

    For any other continuous scalar distribution, give ``transform``.

    Attributes:
      augment: B ≥ 1, an integer, by how much the shape of gammas is raised.
      transform: h and its inverse, two functions ``(distribution, ε) -> z`` and
        ``(distribution, z) -> ε``, element by element, one increasing in the other, the range of
        ε free of θ.

    References: Naesseth, Ruiz, Linderman and Blei (2017), "Reparameterization gradients through
    acceptance-rejection sampling algorithms"; Best and Fisher (1979), "Efficient simulation of the
    von Mises distribution".
    """

    augment: int = static(default=1)
    transform: tuple[Callable, Callable] | None = static(default=None)


@module
class Implicit:
    r"""Implicit reparameterisation: move a draw with its quantile, given a distribution's cdf.

    .. math:: \partial_θ z = -\frac{\partial_θ C(z; θ)}{q(z; θ)}, \qquad C \text{ the cdf}

    For continuous scalar distributions (batches of them) that have a ``cdf`` but no path, such
    as mixtures, whose weights it differentiates too. The cdf must be differentiable by JAX in its
    parameters; nothing is inverted.

    Attributes:
      cdf: the cdf as a function ``(distribution, z) -> C``; by default the distribution's own.

    Reference: Figurnov, Mohamed and Mnih (2018), "Implicit reparameterization gradients",
    equation 6.
    """

    cdf: Callable | None = static(default=None)


@module
class Relaxed:
    r"""A continuous relaxation of a discrete site. **Biased**: by choice, never by default.

    .. math::
        z = \operatorname{sigmoid}\big((\operatorname{logit} p + \operatorname{logit} u) / τ\big),
        \qquad z = \operatorname{softmax}\big((\log p + g) / τ\big)

    for a Bernoulli site, u uniform, and for a categorical site, g of standard Gumbel law. The
    latter must be one-hot: ``Multinomial(1, probs, total_count_max=1)`` in place of
    ``Categorical(probs)``. With ``straight_through`` the model sees the rounded value and the
    gradient is that of the relaxed one; without, the model sees the relaxed value, and the value
    of the objective is biased as well.

    Attributes:
      temperature: τ > 0; the bias vanishes and the variance diverges as it goes to zero.
      straight_through: round the value in the forward pass.

    References: Maddison, Mnih and Teh (2017), "The concrete distribution: a continuous relaxation
    of discrete random variables"; Jang, Gu and Poole (2017), "Categorical reparameterization with
    Gumbel-softmax".
    """

    temperature: float = static(default=0.5)
    straight_through: bool = static(default=True)


STICKING = (StickingTheLanding, PathGradient)
PATHWISE = (Pathwise, *STICKING, DoublyReparameterized)
MOVED = (*PATHWISE, AcceptReject, Implicit, Relaxed)  # the draw itself carries a gradient
SCORED = (Score, RunningScore)
SiteEstimator = (
    Pathwise
    | StickingTheLanding
    | PathGradient
    | DoublyReparameterized
    | Score
    | RunningScore
    | Enumerate
    | MeasureValued
    | AcceptReject
    | Implicit
    | Relaxed
)
Estimator = SiteEstimator | dict[str, SiteEstimator]
