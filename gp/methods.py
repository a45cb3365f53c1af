"""The back-ends by name, and which is chosen for how many inputs."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gp.dense import DensePrior
from gp.independent import IndependentPrior
from gp.model import Model
from gp.sic.method import sic_prior


class Method(NamedTuple):
    """A back-end.

    Attributes:
      build: ``(kernel, mean, x, *, likelihood, **options) -> Prior``, on the host.
      most: distinct inputs up to which ``method="auto"`` takes it; methods are asked in order.
    """

    build: Callable
    most: float = math.inf


def _dense(kernel: Any, mean: Any, x: Any, *, likelihood: Any) -> DensePrior:
    del likelihood
    return DensePrior(kernel, mean, x)


METHODS: dict[str, Method] = {
    "dense": Method(_dense, most=2000),
    "sic": Method(sic_prior),
}


def choose(method: str, num_inputs: int) -> str:
    """The method of a name, or for ``"auto"`` the first that takes so many inputs.

    Raises:
      ValueError: if the name is unknown, or no method is for so many inputs.
    """
    if method == "auto":
        for name, candidate in METHODS.items():
            if num_inputs <= candidate.most:
                return name
        raise ValueError(
            f"gp.fit: expected a method for {num_inputs} distinct inputs; method='auto' knows "
            f"none. Name one of {sorted(METHODS)}, whatever it costs: 'dense' takes "
            f"{8 * num_inputs**2 / 2**30:.1f} GiB for each of a few matrices."
        )
    if method not in METHODS:
        raise ValueError(f"gp.fit: expected method in {['auto', *METHODS]}; got {method!r}.")
    return method


def build(method: str, model: Model, x: Any, options: dict[str, Any]) -> Any:
    """The prior of a model at inputs.

    Raises:
      TypeError: for an option that the method does not have.
    """
    make = METHODS[method].build
    known = {
        name
        for name, p in inspect.signature(make).parameters.items()
        if p.kind == inspect.Parameter.KEYWORD_ONLY and name != "likelihood"
    }
    strange = sorted(set(options) - known)
    if strange:
        raise TypeError(
            f"gp.fit: expected method_options of {method!r} in {sorted(known)}; got {strange}."
        )
    if model.likelihood.latents == 1:
        return make(model.kernel, model.mean, x, likelihood=model.likelihood, **options)
    first = jax.tree.map(lambda leaf: leaf[0], (model.kernel, model.mean))
    one = make(*first, x, likelihood=model.likelihood, **options)
    return IndependentPrior(one).with_functions(model.kernel, model.mean)
