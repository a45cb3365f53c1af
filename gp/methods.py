"""The back-ends by name, and which is chosen for how many inputs."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gp.dense import DensePrior
from gp.independent import IndependentPrior
from gp.inducing import InducingPrior
from gp.inducing.prior import NUM_INDUCING
from gp.model import Data, Model
from gp.sic.method import sic_prior
from gp.state_space import StateSpacePrior, markov
from vi.targets.mesh import apart, mesh_of_rows, whole

MOST_DENSE = 2000  # distinct inputs
LEAST_IN_TIME = 200  # below, matrices are as fast


class Method(NamedTuple):
    """A back-end.

    Attributes:
      build: ``(kernel, mean, x, *, likelihood, **options) -> Prior``, on the host.
      suits: ``(kernel, x) -> bool``: whether ``method="auto"`` takes it, which asks methods in
        order; if not given, only by name.
      spread: ``(prior, data) -> (prior, data)``, on the devices that a
        `vi.targets.mesh.rows_over` around the caller has; if not given, they cannot share its work.
    """

    build: Callable
    suits: Callable[[Any, Any], bool] | None = None
    spread: Callable[[Any, Data], tuple[Any, Data]] | None = None


def _dense(kernel: Any, mean: Any, x: Any, *, likelihood: Any) -> DensePrior:
    del likelihood
    return DensePrior(kernel, mean, x)


def _state_space(kernel: Any, mean: Any, x: Any, *, likelihood: Any) -> StateSpacePrior:
    del likelihood
    return StateSpacePrior.of(kernel, mean, x)


def _inducing(
    kernel: Any,
    mean: Any,
    x: Any,
    *,
    likelihood: Any,
    num_inducing: int = NUM_INDUCING,
    inducing: Any = None,
    start: str = "greedy",
) -> InducingPrior:
    del likelihood
    return InducingPrior.of(
        kernel, mean, x, num_inducing=num_inducing, inducing=inducing, start=start
    )


def _rows_apart(prior: Any, data: Data) -> tuple[Any, Data]:
    """Rows of the data over the devices, all else whole on each."""
    data = apart(data)
    if isinstance(prior, IndependentPrior):
        return IndependentPrior(_rows_apart(prior.prior, data)[0]), data
    return dataclasses.replace(whole(dataclasses.replace(prior, x=None)), x=data.x), data


def _all_whole(prior: Any, data: Data) -> tuple[Any, Data]:
    """All on every device: these share the columns, which ask for their neighbours' rows."""
    return whole((prior, data))


def _in_time(kernel: Any, x: Any) -> bool:
    return x.shape[1] == 1 and len(x) > LEAST_IN_TIME and markov(kernel)


METHODS: dict[str, Method] = {
    "state_space": Method(_state_space, _in_time),
    "dense": Method(_dense, lambda kernel, x: len(x) <= MOST_DENSE),
    "inducing": Method(_inducing, spread=_rows_apart),
    "sic": Method(sic_prior, lambda kernel, x: True, spread=_all_whole),
}


def choose(method: str, kernel: Any, x: Any) -> str:
    """The method of a name, or for ``"auto"`` the first that suits kernel and inputs.

    Raises:
      ValueError: if the name is unknown.
    """
    if method == "auto":
        suiting = (name for name, one in METHODS.items() if one.suits and one.suits(kernel, x))
        return next(suiting)
    if method not in METHODS:
        raise ValueError(f"gp.fit: expected method in {['auto', *METHODS]}; got {method!r}.")
    return method


def check_mesh(method: str, count: int) -> None:
    """That devices can share the work of a method at so many distinct inputs.

    Raises:
      ValueError: if they cannot.
    """
    able = [name for name, one in METHODS.items() if one.spread]
    if method not in able:
        raise ValueError(
            f"gp.fit: expected with a mesh a method in {able}; got {method!r} for {count} "
            "distinct inputs. Name one of them, or leave mesh out."
        )


def spread(method: str, prior: Any, data: Data) -> tuple[Any, Data]:
    """Prior and data on the devices of the `vi.targets.mesh.rows_over` around the caller."""
    place = METHODS[method].spread
    return (prior, data) if place is None or mesh_of_rows() is None else place(prior, data)


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
