"""Wasserstein gradient flows restricted to Gaussians, as optax transformations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from optim.roots import lower_root, unwhitened
from vi.families.gaussian import Gaussian
from vi.gaussian.root import BlockRoot, DenseRoot, DiagonalRoot, Root
from vi.gaussian.whitening import replace, updates, whiten

MEMORY = 0.95  # of the maximum of the curvature, a step: against noise, not for good


class BuresWassersteinState(NamedTuple):
    """State of both transformations."""

    count: Array  # shape=(), dtype=int32
    smoothness: Array  # decaying maximum of the norm of E[-∇² log p], shape=()


def _hessian(root: DenseRoot | DiagonalRoot, excess: Any) -> Array:
    """S = E[-∇² log p] in the original coordinates: L⁻ᵀ (X + I) L⁻¹."""
    if isinstance(root, DiagonalRoot):
        return (excess.diagonal + 1) / root.diagonal**2
    curvature = excess.matrix + jnp.eye(len(excess.matrix), dtype=excess.matrix.dtype)
    return unwhitened(root.matrix, curvature)


def _norm(hessian: Array) -> Array:
    return jnp.max(jnp.abs(hessian if hessian.ndim == 1 else jnp.linalg.eigvalsh(hessian)))


def _largest_precision(root: DenseRoot | DiagonalRoot) -> Array:
    if isinstance(root, DiagonalRoot):
        return 1 / jnp.min(root.diagonal**2)
    return 1 / jnp.linalg.svd(root.matrix, compute_uv=False)[-1] ** 2


Move = Callable[[Array, Array, Array], Array]  # root, S, step size -> new root


def _transformation(
    learning_rate: optax.ScalarOrSchedule, move: Move, owner: str, *, explicit_entropy: bool
) -> optax.GradientTransformationExtraArgs:
    def init(params: Gaussian) -> BuresWassersteinState:
        return BuresWassersteinState(jnp.zeros((), jnp.int32), jnp.zeros((), params.loc.dtype))

    def update(
        grads: Gaussian,
        state: BuresWassersteinState,
        params: Any = None,
        **extra: object,
    ) -> tuple[Gaussian, BuresWassersteinState]:
        del extra
        root, _, excess = whiten(params, grads, owner)
        pairs = _pieces(root, excess)
        hessians = [_hessian(r, x) for r, x in pairs]
        here = jnp.max(jnp.stack([_norm(h) for h in hessians]))
        smoothness = jnp.maximum(MEMORY * state.smoothness, here)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        limit = smoothness
        if explicit_entropy:
            limit = limit + jnp.max(jnp.stack([_largest_precision(r) for r, _ in pairs]))
        rate = jnp.minimum(jnp.asarray(rate, params.loc.dtype), 1 / limit)  # flat: 1/0 = inf
        moved = [_move(r, h, rate, move) for (r, _), h in zip(pairs, hessians, strict=True)]
        new_root = (
            BlockRoot(tuple(moved), root.indices) if isinstance(root, BlockRoot) else moved[0]
        )
        new = replace(params.loc - rate * grads.loc, new_root)
        count = optax.safe_increment(state.count)
        return updates(new, params), BuresWassersteinState(count, smoothness)

    return optax.GradientTransformationExtraArgs(init, update)


def _pieces(root: Root, excess: Any) -> list[tuple]:
    if isinstance(root, BlockRoot):
        return list(zip(root.blocks, excess.blocks, strict=True))
    return [(root, excess)]


def _move(
    root: DenseRoot | DiagonalRoot, hessian: Array, rate: Array, move: Move
) -> DenseRoot | DiagonalRoot:
    if isinstance(root, DiagonalRoot):
        return DiagonalRoot(move(root.diagonal, hessian, rate))
    return DenseRoot(move(root.matrix, hessian, rate))


def _forward_backward(root: Array, hessian: Array, rate: Array) -> Array:
    if root.ndim == 1:
        half = ((1 - rate * hessian) * root) ** 2
        return jnp.sqrt(0.5 * (half + 2 * rate + jnp.sqrt(half * (half + 4 * rate))))
    forward = root - rate * hessian @ root
    values, vectors = jnp.linalg.eigh(forward @ forward.T)
    values = jnp.maximum(values, 0)
    moved = 0.5 * (values + 2 * rate + jnp.sqrt(values * (values + 4 * rate)))
    return lower_root(vectors * jnp.sqrt(moved))


def _gradient_descent(root: Array, hessian: Array, rate: Array) -> Array:
    if root.ndim == 1:
        return (1 - rate * (hessian - 1 / root**2)) * root
    eye = jnp.eye(root.shape[0], dtype=root.dtype)
    inverse_transpose = jax.scipy.linalg.solve_triangular(root, eye, lower=True).T
    return lower_root(root - rate * hessian @ root + rate * inverse_transpose)


def forward_backward(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    r"""Forward-backward steps in Bures-Wasserstein space: one JKO step with a closed-form prox.

    With b = E[-∇ log p], S = E[-∇² log p] and step η,

    .. math::

       m_{new} = m - ηb, \quad Σ_{1/2} = (I - ηS) Σ (I - ηS), \quad
       Σ_{new} = \tfrac12\left(Σ_{1/2} + 2ηI + [Σ_{1/2}(Σ_{1/2} + 4ηI)]^{1/2}\right)

    (Diao, Balasubramanian, Chewi and Salim 2023, "Forward-backward Gaussian variational
    inference via JKO in the Bures-Wasserstein space", Algorithm 1). Along a curvature λ the
    iteration has the fixed points 1/λ and η/(2 - ηλ) and goes to the larger one, so η must not
    exceed 1/β with β the largest curvature where q is. η is cut to 1/β̂, with β̂ the largest
    absolute eigenvalue of S, of this step or, as it may be noisy, of one k steps before times
    0.95ᵏ. A negative curvature counts too: it bounds how fast q widens, to a factor of two in the
    forward step. Where S is zero η is not cut.

    Args:
      learning_rate: η in the squared units of z, a number or an optax schedule.

    Returns:
      A transformation; parameters and updates as in `natural_gradient`.

    Raises:
      TypeError: at the first update, if the parameters are not a Gaussian of those kinds.

    Complexity:
      Two eigendecompositions and a QR, O(D³), for a dense scale; O(D) for a diagonal one.
    """
    return _transformation(
        learning_rate, _forward_backward, "forward_backward", explicit_entropy=False
    )


def bures_wasserstein(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent of KL(q‖p) in Bures-Wasserstein space.

    .. math:: m_{new} = m - ηb, \qquad Σ_{new} = M Σ M, \quad M = I - η(S - Σ^{-1})

    with b, S and η as in `forward_backward` (Lambert, Chewi, Bach, Bonnabel and Rigollet 2022,
    "Variational inference via Wasserstein gradient flows", Algorithm 1). The entropy is taken
    explicitly, so η must also be small against the variances: η is cut to 1/(β̂ + 1/σ²), with β̂ as
    in `forward_backward` and σ² the smallest eigenvalue of Σ. `forward_backward` takes longer
    steps where Σ is narrow in some directions and wide in others.

    Args:
      learning_rate: η in the squared units of z, a number or an optax schedule.

    Returns:
      A transformation; parameters and updates as in `natural_gradient`.

    Raises:
      TypeError: at the first update, if the parameters are not a Gaussian of those kinds.

    Complexity:
      An eigendecomposition, an SVD and a QR, O(D³), for a dense scale; O(D) for a diagonal one.
    """
    return _transformation(
        learning_rate, _gradient_descent, "bures_wasserstein", explicit_entropy=True
    )
