"""Posteriors read back from disk."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gp import methods
from gp.assembly import bound, condition
from gp.checking import Checks
from gp.inputs import Missing
from gp.parameters import digest
from gp.posterior import Posterior
from gp.preparation import prepare
from gp.sites import Sites
from vi import storage
from vi.errors import CheckpointError
from vi.posterior.verdict import Verdict
from vi.provenance import tree_digest
from vi.status import Status
from vi.threads import blas_threads

CLOSE = 1e-3  # relative difference of the ELBO up to which a model is the same


def load(
    path: str | os.PathLike,
    x: Float[Array, "N D"],
    y: Float[Array, " N"],
    *,
    kernel: Any = None,
    likelihood: Any = None,
    mean: Any = None,
    missing: Missing = "raise",
    method_options: dict[str, Any] | None = None,
) -> Posterior:
    """Read a posterior that `gp.Posterior.save` wrote. No code in the file is executed.

    Args:
      path: the file.
      x: the inputs it was fitted to, which are not in the file.
      y: the targets.
      kernel: as given to `fit`; only its structure matters.
      likelihood: the same.
      mean: the same.
      missing: the same.
      method_options: the same.

    Returns:
      The posterior.

    Raises:
      CheckpointError: if the file is not whole, or of other data or another model.

    Example:
      >>> import gp, jax, jax.numpy as jnp, tempfile, os
      >>> x, y = jnp.linspace(0.0, 6.0, 40), jnp.sin(jnp.linspace(0.0, 6.0, 40))
      >>> posterior = gp.fit(x, y, key=jax.random.key(0), train=False)
      >>> path = os.path.join(tempfile.mkdtemp(), "sine.npz")
      >>> posterior.save(path)
      >>> gp.load(path, x, y).elbo == posterior.elbo
      True
    """
    model, data, _ = prepare(x, y, kernel, likelihood, mean, missing, "gp.load")
    leaves, meta = storage.load(path)
    about = meta.get("provenance", {})
    found = {"kind": "gaussian process", "model": digest(model)}
    wrong = [name for name, value in found.items() if meta.get(name) != value]
    if not wrong and about["data"] != tree_digest(data):
        wrong = ["data"]
    if wrong:
        raise CheckpointError(
            f"{path}: expected a posterior of this model and these data; it differs in {wrong[0]}. "
            "Give the data, kernel, likelihood and mean that it was fitted with."
        )
    kept, leaves = leaves[: meta.get("kept", 0)], leaves[meta.get("kept", 0) :]
    structure = jax.tree.structure((model, Sites(*[0, 0])))
    model, sites = jax.tree.unflatten(structure, map(jnp.asarray, leaves[:-3]))
    prior = methods.build(about["method"], model, data.x, method_options or {})
    prior = prior.with_kept([*map(jnp.asarray, kept)]) if kept else prior
    with blas_threads(len(data.x)):
        q = condition(prior, sites)
        elbo = float(bound(model.likelihood, data, q))
    if not abs(elbo - meta["elbo"]) < CLOSE * (1 + abs(elbo)):
        raise CheckpointError(
            f"{path}: expected the model that it was fitted with; its ELBO was "
            f"{meta['elbo']:.6g}, and is {elbo:.6g} with this one. Give the same kernel, "
            "likelihood, mean and method_options."
        )
    steps, elbos, loo = leaves[-3:]
    return Posterior(
        model=model,
        prior=prior,
        data=data,
        sites=sites,
        q=q,
        elbo=meta["elbo"],
        status=Status[meta["status"]],
        verdict=Verdict(*meta["verdict"]),
        checks=Checks(**meta["checks"], loo=loo),
        history={"step": steps, "elbo": elbos},
        cost=meta["cost"],
        key=np.asarray(meta["key"], np.uint32),
        provenance=about,
    )
