"""Hyperparameters by name: which are trained, in which coordinates, and under which priors."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Values = dict[str, Array]


def _walk(node: Any, visit: Callable, path: str = "", positive: bool = False) -> Any:  # noqa: FBT001, FBT002
    """A tree of nouns with each array leaf replaced by ``visit(path, leaf, positive)``."""
    inside = lambda name, child, sign: _walk(child, visit, f"{path}.{name}".lstrip("."), sign)
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        signs = getattr(node, "positive", ())
        fields = [f for f in dataclasses.fields(node) if not f.metadata.get("static")]
        new = {
            f.name: inside(f.name, getattr(node, f.name), positive or f.name in signs)
            for f in fields
        }
        return dataclasses.replace(node, **new)
    if isinstance(node, (tuple, list)):
        return type(node)(inside(str(i), child, positive) for i, child in enumerate(node))
    return visit(path, node, positive)


def as_arrays(model: Any, dtype: Any, latents: int | None = None) -> Any:
    """A model with floating leaves as arrays of one dtype, with a first axis of L if asked for."""

    def visit(path: str, leaf: Any, positive: bool) -> Any:  # noqa: FBT001
        del path, positive
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        leaf = jnp.asarray(leaf, dtype if floating else None)
        return leaf if latents is None else jnp.broadcast_to(leaf, (latents, *leaf.shape))

    return _walk(model, visit)


def parameters(model: Any) -> Values:
    """All floating hyperparameters by name, as in ``kernel.lengthscale``."""
    found: Values = {}

    def visit(path: str, leaf: Any, positive: bool) -> Any:  # noqa: FBT001
        del positive
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            found[path] = leaf
        return leaf

    _walk(model, visit)
    return found


def positive_names(model: Any) -> set[str]:
    """Names of the hyperparameters that must stay positive."""
    found: set[str] = set()

    def visit(path: str, leaf: Any, positive: bool) -> Any:  # noqa: FBT001
        if positive:
            found.add(path)
        return leaf

    _walk(model, visit)
    return found


def matching(names: Collection[str], wanted: str, owner: str) -> list[str]:
    """The names that are ``wanted`` or end with it after a dot.

    Raises:
      ValueError: if none does.
    """
    found = [name for name in names if name == wanted or name.endswith("." + wanted)]
    if not found:
        raise ValueError(
            f"{owner}: expected a hyperparameter out of {sorted(names)}, or the end of such a "
            f"name; got {wanted!r}."
        )
    return found


def unconstrained(model: Any, trained: Collection[str]) -> Values:
    """The trained hyperparameters in the optimizer's coordinates: logs of positive ones.

    They are in the widest precision that JAX computes in, whatever the model's.
    """
    found: Values = {}

    def visit(path: str, leaf: Any, positive: bool) -> Any:  # noqa: FBT001
        if path in trained:
            wide = jnp.asarray(leaf, jnp.result_type(float))
            found[path] = jnp.log(wide) if positive else wide
        return leaf

    _walk(model, visit)
    return found


def constrained(model: Any, values: Values) -> Any:
    """The model with trained hyperparameters from the optimizer's coordinates."""

    def visit(path: str, leaf: Any, positive: bool) -> Any:  # noqa: FBT001
        if path not in values:
            return leaf
        value = jnp.exp(values[path]) if positive else values[path]
        return value.astype(jnp.result_type(leaf))

    return _walk(model, visit)


def largest_factor(model: Any, values: Values, others: Values) -> Float[Array, ""]:
    """By what a positive hyperparameter differs most between two sets: the log of the factor."""
    found = [jnp.zeros(())]

    def visit(path: str, leaf: Any, positive: bool) -> Any:  # noqa: FBT001
        if positive and path in values:
            found.append(jnp.max(jnp.abs(values[path] - others[path])))
        return leaf

    _walk(model, visit)
    return jnp.max(jnp.stack(found))


def check_positive(model: Any, owner: str) -> None:
    """Raise a `ValueError` that names the first hyperparameter that is not what it must be."""

    def visit(path: str, leaf: Any, positive: bool) -> Any:  # noqa: FBT001
        value = np.asarray(leaf)
        if value.dtype.kind == "f" and not np.all(np.isfinite(value)):
            raise ValueError(f"{owner}: expected finite hyperparameters; got {path} = {value}.")
        if positive and not np.all(value > 0):
            raise ValueError(
                f"{owner}: expected {path} > 0; got {value}. Give a positive starting value."
            )
        return leaf

    _walk(model, visit)


def log_prior(model: Any, priors: dict[str, Any]) -> Float[Array, ""]:
    """The log density of hyperparameters under priors by full name, in their own units."""
    values = parameters(model)
    terms = [jnp.sum(prior.log_prob(values[name])) for name, prior in priors.items()]
    return sum(terms, jnp.zeros(()))


def digest(model: Any) -> str:
    """Structure, names and shapes of a model as text; of another model, it is another."""
    shapes = {name: list(jnp.shape(value)) for name, value in parameters(model).items()}
    return f"{jax.tree.structure(model).num_leaves} leaves {shapes}"
