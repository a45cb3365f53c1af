"""From trained hyperparameters to a posterior: the last ascent, the checks, the verdict."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from gp.checking import check, judge
from gp.evidence import known_sites
from gp.independent import with_functions
from gp.model import Data, Model, expectations
from gp.posterior import Posterior
from gp.prior import Conditional
from gp.sites import Sites
from gp.training import follow
from vi.clock import Clock
from vi.compile import quick_jit
from vi.provenance import key_words, tree_digest, versions
from vi.random import fast_key
from vi.status import Status
from vi.targets.mesh import home, rows_over
from vi.threads import blas_threads

_MOST = 1000  # rows of a matrix that is looked at to explain why it is not positive definite


@quick_jit
def condition(prior: Any, sites: Sites) -> Conditional:
    """The prior conditioned on sites, compiled once for a back-end and shapes.

    Args:
      prior: a back-end, such as `gp.dense.DensePrior`.
      sites: Gaussian factors, one for each datum and latent function.

    Returns:
      Marginal means and variances at the data, KL(q ‖ p) in nats, and what predictions need.
    """
    return prior.condition(sites)


@quick_jit
def bound(likelihood: Any, data: Data, q: Conditional) -> Array:
    r"""The ELBO :math:`\sum_i E_q[\log p(y_i | f_i)] - KL(q \| p)`, shape ``()``, nats.

    Args:
      likelihood: of the targets given latent values.
      data: the targets.
      q: the posterior of `condition`.
    """
    return jnp.sum(expectations(likelihood, q.mean, q.variance, data).value) - q.kl


def assemble(
    model: Model,
    prior: Any,
    data: Data,
    sites: Sites,
    key: Array,
    status: Status,
    clock: Clock,
    *,
    mesh: Mesh | None = None,
    history: dict[str, np.ndarray],
    notes: list[str],
    about: dict[str, Any],
    cautions: Sequence[str] = (),
) -> Posterior:
    """The posterior at given hyperparameters.

    Args:
      model: hyperparameters.
      prior: the back-end.
      data: targets.
      sites: to begin from.
      key: of the fit.
      status: how training ended.
      clock: running since the fit began.
      mesh: devices that share the work on the data, up to the checks.
      history: of training.
      notes: sentences for the verdict.
      about: what provenance says of the options.
      cautions: sentences for the verdict that make it fair at best.

    Raises:
      ValueError: if the ELBO is not finite though training did not break down.
    """
    likelihood, prior = model.likelihood, with_functions(prior, model.kernel, model.mean)
    with blas_threads(len(data.x)), rows_over(mesh):
        if likelihood.conjugate:
            sites = known_sites(likelihood, data)
        else:
            found = follow(model, prior, data, sites)
            sites = found.sites
            if status == Status.CONVERGED and not bool(found.converged):
                status = Status.STALLED
        q = condition(prior, sites)
        elbo = float(bound(likelihood, data, q))
        if not np.isfinite(elbo) and not status.failed:
            raise ValueError(explain(model, data, "gp.fit"))
    if mesh is not None:
        model, prior, data, sites, q = home((model, prior, data, sites, q))
    with blas_threads(len(data.x)):
        checks = check(_fresh(key), prior, model.likelihood, data, sites, q)
    jitter = _beyond_rounding(model, data.x, float(q.jitter))
    if data.y.dtype == np.float32 and (jitter > 0 or status.failed):
        notes = [*notes, "It ran in 32-bit floats; 64-bit ones need less jitter, or none."]
    own = prior.cautions(q) if hasattr(prior, "cautions") else []
    cautions = [*own, *cautions]
    exact = model.likelihood.conjugate and getattr(prior, "exact", False)
    kind = "exact posterior" if exact else "Gaussian posterior"
    what = f"{kind} (N = {len(data.x)}, {about['method']})"
    verdict = judge(checks, status, elbo, jitter, what, notes, cautions, exact=exact)
    steps = int(history["step"][-1]) if len(history["step"]) else 0
    cost = {"steps": steps, **clock.read()}
    provenance = {
        "versions": versions(),
        "key": key_words(key),
        "data": tree_digest(data),
        "dtype": str(data.y.dtype),
        "backend": jax.default_backend(),
        **about,
        "status": status.name,
        "cost": cost,
    }
    return Posterior(
        model, prior, data, sites, q, elbo, status, verdict, checks, history, cost, key, provenance
    )


def _beyond_rounding(model: Model, x: Array, jitter: float) -> float:
    """The jitter, or zero where it is not more than rounding of the variance."""
    variance = float(jnp.mean(_first_kernel(model).diagonal(x[:1])))
    return jitter if jitter > 1e3 * np.finfo(x.dtype).eps * variance else 0.0


def _first_kernel(model: Model) -> Any:
    """The kernel, of several latent functions the first one's."""
    if model.likelihood.latents == 1:
        return model.kernel
    return jax.tree.map(lambda leaf: leaf[0], model.kernel)


def _fresh(key: Array) -> Array:
    """A key that training does not use."""
    return jax.random.fold_in(fast_key(key), 2**30)


def explain(model: Model, data: Data, owner: str) -> str:
    """Why the ELBO is not finite at a model, as the text of an error.

    Args:
      model: whose kernel is looked at, at the first inputs.
      data: the data.
      owner: whom the text begins with.

    Returns:
      The inputs between which the kernel is not finite, or not positive definite, if it is that.
    """
    kernel = _first_kernel(model)
    x = data.x[:_MOST]
    matrix = np.asarray(kernel(x, x), float)
    if not np.isfinite(matrix).all():
        i, j = (int(k) for k in np.argwhere(~np.isfinite(matrix))[0])
        return (
            f"{owner}: expected a kernel of finite values; got {matrix[i, j]} for the inputs "
            f"{np.asarray(x[i])} and {np.asarray(x[j])}. Check its hyperparameters."
        )
    least = float(np.linalg.eigvalsh(0.5 * (matrix + matrix.T))[0])
    scale = float(np.abs(np.diag(matrix)).max())
    if least < -1e3 * np.finfo(data.x.dtype).eps * len(matrix) * max(scale, 1e-300):
        from scipy.spatial import KDTree

        points = np.asarray(kernel.metric(x), float)
        distance, near = map(np.asarray, KDTree(points).query(points, k=[min(2, len(points))]))
        i = int(np.argmin(distance[:, 0]))
        pair = [np.asarray(x[k]).tolist() for k in (i, int(near[i, 0]))]
        return (
            f"{owner}: expected a positive definite kernel; its matrix has the eigenvalue "
            f"{least:.3g} beside variances of {scale:.3g}, more than jitter mends. The closest "
            f"inputs are {pair[0]} and {pair[1]}. Check the kernel, merge such inputs, or use "
            "64-bit floats."
        )
    return (
        f"{owner}: expected a finite ELBO at the start; it is not, though the kernel's matrix "
        f"{'of the first ' + str(_MOST) + ' inputs ' if len(data.x) > _MOST else ''}is "
        "positive definite. Start from hyperparameters nearer to the data's scales, leave them out "
        "for such a start, or use 64-bit floats."
    )
