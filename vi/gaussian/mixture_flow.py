"""The Wasserstein gradient flow of a mixture of Gaussians, as an optax transformation."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from optim.roots import lower_root, unwhitened
from vi.families import Gaussian, Mixture
from vi.gaussian.root import BlockRoot, DenseRoot, DiagonalRoot
from vi.gaussian.whitening import replace, updates, whiten

LONGEST = 0.5  # step of I - ηG, in spectral norm: the covariance keeps a quarter at least
MAX_LOGIT_STEP = 0.5


def _curvature(root: DenseRoot | DiagonalRoot, whitened: Any) -> Array:
    """G = E[∇² log q/p] in the original coordinates, from ``Lᵀ G L``."""
    if isinstance(root, DiagonalRoot):
        return whitened.diagonal / root.diagonal**2
    return unwhitened(root.matrix, whitened.matrix)


def _norm(curvature: Array) -> Array:
    values = curvature if curvature.ndim == 1 else jnp.linalg.eigvalsh(curvature)
    return jnp.max(jnp.abs(values))


def mixture_flow(
    learning_rate: optax.ScalarOrSchedule, *, weight_rate: float | Array = 0.0
) -> optax.GradientTransformationExtraArgs:
    r"""Descent of KL(q‖p) over mixtures of Gaussians, each a point of Bures-Wasserstein space.

    A mixture is a distribution over means and covariances; its Wasserstein gradient flow moves
    component k by

    .. math:: \dot m_k = -E_{N_k}[∇ \log \tfrac qp], \qquad
        \dot Σ_k = -G_k Σ_k - Σ_k G_k, \quad G_k = E_{N_k}[∇^2 \log \tfrac qp]

    (Lambert, Chewi, Bach, Bonnabel and Rigollet 2022, "Variational inference via Wasserstein
    gradient flows", Section 5), with the density q of the whole mixture, so components repel each
    other. Steps are along geodesics, :math:`Σ_k \leftarrow (I - ηG_k) Σ_k (I - ηG_k)`, with η cut
    so that no :math:`ηG_k` is longer than ½. The flow leaves the weights as they are. With a
    ``weight_rate`` ρ it is the Wasserstein-Fisher-Rao flow, in which mass also goes where it lacks:

    .. math:: \log w_k \leftarrow \log w_k - ρ\,(E_{N_k}[\log \tfrac qp] - KL(q \| p)).

    With one component it is `bures_wasserstein`.

    Args:
      learning_rate: η in the squared units of z, a number or an optax schedule.
      weight_rate: ρ, at most 1; a step of a logit is cut at ½.

    Returns:
      A transformation of gradients of the negative ELBO of a `vi.Mixture`, for instance by
      ``vi.elbo(estimator=vi.StickingTheLanding())``, whose noise vanishes as q comes to p.

    Raises:
      TypeError: at the first update, if the parameters are not a mixture of dense, diagonal or
        block Gaussians with ``positive="linear"``.

    Complexity:
      O(K D³) for dense components, O(K D) for diagonal ones.
    """

    def init(params: Mixture) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(
        grads: Mixture, state: Any, params: Any = None, **extra: object
    ) -> tuple[Mixture, Any]:
        del extra
        if not isinstance(params, Mixture):
            raise TypeError(
                "mixture_flow: expected a vi.Mixture as params; got "
                f"{type(params).__name__}. Make one with vi.mixture, or use bures_wasserstein."
            )
        shares = jax.nn.softmax(params.logits)
        dtype = params.components.loc.dtype
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def curvatures(component: Gaussian, gradient: Gaussian, share: Array) -> list[Array]:
            own = jax.tree.map(lambda g: g / share, gradient)
            root, _, whitened = whiten(component, own, "mixture_flow")
            if isinstance(root, BlockRoot):
                pairs = zip(root.blocks, whitened.blocks, strict=True)
                return [_curvature(r, x) for r, x in pairs]
            return [_curvature(root, whitened)]

        given = params.components, grads.components, shares
        found = jax.vmap(curvatures)(*given)
        longest = jnp.max(jnp.stack([jax.vmap(_norm)(g) for g in found]))
        eta = jnp.minimum(jnp.asarray(rate, dtype), LONGEST / longest)  # flat: ½/0 = inf

        def move(component: Gaussian, gradient: Gaussian, share: Array, g: list) -> Gaussian:
            own = jax.tree.map(lambda x: x / share, gradient)
            root, _, _ = whiten(component, own, "mixture_flow")
            loc = component.loc - eta * own.loc
            if isinstance(root, DiagonalRoot):
                return replace(loc, DiagonalRoot(root.diagonal * (1 - eta * g[0])))
            blocks = root.blocks if isinstance(root, BlockRoot) else (root,)
            moved = tuple(
                DenseRoot(lower_root(b.matrix - eta * x @ b.matrix))
                for b, x in zip(blocks, g, strict=True)
            )
            new = BlockRoot(moved, root.indices) if isinstance(root, BlockRoot) else moved[0]
            return replace(loc, new)

        components = jax.vmap(move)(*given, found)
        change = -weight_rate * grads.logits / shares
        change = jnp.clip(change, -MAX_LOGIT_STEP, MAX_LOGIT_STEP).astype(params.logits.dtype)
        count = optax.safe_increment(state.count)
        moves = updates(components, params.components)
        return Mixture(change, moves), optax.ScaleByScheduleState(count)

    return optax.GradientTransformationExtraArgs(init, update)
