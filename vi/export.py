"""Posteriors for ArviZ."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    import arviz
    import xarray

    from vi.posterior import Posterior


def groups(posterior: "Posterior", num_samples: int) -> dict[str, dict[str, np.ndarray]]:
    """Arrays by ArviZ group: one chain of independent draws, their densities, the data.

    Args:
      posterior: the posterior.
      num_samples: draws; a fixed key makes the export reproducible.

    Returns:
      ``{"posterior": {site: (1, S, ...)}, "sample_stats": {"lp", "log_q", "log_weight"},
      "observed_data": {site: ...}}``; the last for NumPyro models only.
    """
    unconstrained, log_q = posterior.sample_unconstrained(jax.random.key(0), num_samples)
    z = np.concatenate(
        [np.asarray(u).reshape(num_samples, -1) for u in unconstrained.values()], axis=1
    )
    log_p = np.asarray(_log_density(posterior.target, z))
    log_q = np.asarray(log_q)
    draws = posterior.sample(jax.random.key(0), num_samples)
    out = {
        "posterior": {name: value[None] for name, value in draws.items()},
        "sample_stats": {
            "lp": log_p[None],
            "log_q": log_q[None],
            "log_weight": (log_p - log_q)[None],
        },
    }
    observed = _observed(posterior)
    return {**out, "observed_data": observed} if observed else out


@jax.jit
def _log_density(target: Any, z: np.ndarray) -> jax.Array:
    return jax.vmap(target.log_density)(z)


def _observed(posterior: "Posterior") -> dict[str, np.ndarray]:
    """Observed sites of a NumPyro model, by running it once."""
    structure = posterior.target.structure
    if not hasattr(structure, "observed"):
        return {}
    return {name: np.asarray(value) for name, value in structure.observed(posterior.target.data).items()}


def attributes(posterior: "Posterior") -> dict[str, Any]:
    """What to say of the draws in an attribute of the export."""
    return {
        "inference_library": "kullback",
        "grade": posterior.verdict.grade,
        "verdict": posterior.verdict.text,
        "khat": posterior.khat,
        "elbo": posterior.elbo,
        "elbo_sem": posterior.elbo_sem,
    }


def to_datatree(posterior: "Posterior", num_samples: int = 1000) -> "xarray.DataTree":
    """Draws, sample statistics and observed data as an xarray DataTree.

    Args:
      posterior: the posterior.
      num_samples: draws.

    Returns:
      A tree with the groups of `groups`; the verdict is among its attributes.
    """
    import xarray

    tree = {}
    for group, variables in groups(posterior, num_samples).items():
        lead = [] if group == "observed_data" else ["chain", "draw"]
        data = {
            name: (_dims(name, value, lead), value) for name, value in variables.items()
        }
        coords = {"chain": [0], "draw": np.arange(num_samples)} if lead else {}
        tree[f"/{group}"] = xarray.Dataset(data, coords=coords)
    made = xarray.DataTree.from_dict(tree)
    made.attrs.update(attributes(posterior))
    made["posterior"].attrs.update(attributes(posterior))
    return made


def _dims(name: str, value: np.ndarray, lead: list[str]) -> list[str]:
    return [*lead, *(f"{name}_dim_{i}" for i in range(value.ndim - len(lead)))]


def to_arviz(posterior: "Posterior", num_samples: int = 1000) -> "arviz.InferenceData | xarray.DataTree":
    """What the installed ArviZ takes.

    Args:
      posterior: the posterior.
      num_samples: draws.

    Returns:
      ``arviz.InferenceData`` before ArviZ 1.0, an ``xarray.DataTree`` from 1.0 on.
    """
    tree = to_datatree(posterior, num_samples)
    import arviz

    if not hasattr(arviz, "InferenceData"):
        return tree
    made = arviz.InferenceData(**{name: node.to_dataset() for name, node in tree.children.items()})
    made.attrs.update(attributes(posterior))
    return made
