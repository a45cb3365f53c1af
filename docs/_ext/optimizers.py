"""``{optimizers}``: the optimizers of `optim`, and of `vi.gaussian`, with what each is for.

What a method asks of the loss is found out by running its entries of ``tests/contracts.py``; cost
and memory are the Complexity of its docstring. Words on noise and use are here, and a method that
is exported without any is an error.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import api
import jax
import jax.numpy as jnp
import methods
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from optim import Oracle


class Advice(NamedTuple):
    """What cannot be read from the code."""

    noise: str
    use: str


_ANY = "any; average the iterates"
_EXACT = "none: fixed draws or exact losses"

ADVICE: dict[str, Advice] = {
    "a_dog": Advice(_ANY, "nothing to tune, up to about 1,000 parameters; clip before it"),
    "dog": Advice(_ANY, "well-conditioned losses without a learning rate"),
    "layerwise_dog": Advice(_ANY, "layers of networks; not location and scale of a family"),
    "dowg": Advice(_ANY, "as `dog`, where the start is far; single huge gradients throw it out"),
    "normalized_momentum": Advice(_ANY, "huge gradients, far starts; needs a rate and a schedule"),
    "nigt": Advice(_ANY, "as `normalized_momentum`, with less bias where curvature is constant"),
    "scale_by_norm_power": Advice("little", "a link of a chain, where curvature grows with slope"),
    "clip_by_ema_norm": Advice("any, heavy tails above all", "a link of a chain, before others"),
    "polynomial_average": Advice("any", "around any method whose last iterate is noisy"),
    "extragradient": Advice("any, if its steps fall", "minimax problems; two gradients a step"),
    "past_extragradient": Advice("any, if its steps fall", "minimax problems; one gradient a step"),
    "anchored_gradient": Advice(_EXACT, "monotone minimax problems, bilinear games above all"),
    "two_timescale": Advice("as its base", "pairs of players, the first slow; in `extragradient`"),
    "lazy_newton": Advice(
        "little; Hessians are averaged and do not share the gradient's sample",
        "few parameters, fixed draws",
    ),
    "damped_newton": Advice(_EXACT, "few parameters, convex losses"),
    "saddle_free_newton": Advice(_EXACT, "saddles; products only, with a Krylov space"),
    "gauss_newton": Advice(
        "little, or many rows; let the damping grow", "least squares, and losses of outputs by rows"
    ),
    "fosi": Advice("as its base", "a few curvatures far above the rest"),
    "psgd": Advice("made for it", "ill-conditioned losses, many parameters; needs a rate"),
    "oasis": Advice("moderate; average the iterates", "curvature mostly along the coordinates"),
    "mfac": Advice("some; preconditions by the noise too", "no curvature to be had but gradients"),
    "riemannian_adam": Advice("any", "parameters on spheres, frames, covariances"),
    "riemannian_amsgrad": Advice("any", "as `riemannian_adam`, with a proof, and slower"),
    "riemannian_adagrad": Advice("any", "as `riemannian_adam`, sparse gradients"),
    "natural_gradient": Advice("any; needs few draws", "Gaussian families: the first to try"),
    "forward_backward": Advice("any", "Gaussian families, log-concave targets"),
    "bures_wasserstein": Advice("any", "Gaussian families, as a baseline"),
    "mixture_flow": Advice("any", "mixtures of Gaussians, with sticking the landing"),
    "batch_and_match": Advice("any; needs many draws", "Gaussian families, without an ELBO"),
}

ASKED = {  # methods of the oracle that a step calls by itself
    "__call__": "values elsewhere",
    "value_and_grad": "gradients elsewhere",
    "grad": "gradients elsewhere",
    "hvp": "Hessian-vector products",
    "linearize": "Hessian-vector products",
    "quad": "curvature along vectors",
    "dense_hessian": "the Hessian",
    "outputs": "rows of outputs",
    "row_loss": "rows of outputs",
    "remainder": "rows of outputs",
    "per_example_grads": "gradients of examples",
    "fresh": "fresh randomness",
}


@contextlib.contextmanager
def _recorded() -> Iterator[set[str]]:
    """What is asked of oracles meanwhile, but for what they ask of themselves."""
    asked: set[str] = set()
    inside = [False]

    def spy(original: Callable, words: str) -> Callable:
        def call(self: Oracle, *args: Any) -> Any:
            if inside[0]:
                return original(self, *args)
            asked.add(words)
            inside[0] = True
            try:
                return original(self, *args)
            finally:
                inside[0] = False

        return call

    with contextlib.ExitStack() as stack:
        for name, words in ASKED.items():
            spied = spy(getattr(Oracle, name), words)
            stack.enter_context(mock.patch.object(Oracle, name, spied))
        yield asked


def _oracle(key: Any = None) -> Oracle:
    """A loss of twelve rows that declares all there is."""
    del key
    rows = jnp.eye(12, 8)
    return Oracle.composite(
        lambda x: rows @ x, jnp.square, lambda x: jnp.sum(jnp.cosh(x)), fresh=_oracle
    )


def asked_by(entry: Any) -> set[str]:
    """What one step of an entry of the registry asks of the loss, beside the gradient."""
    optimizer, x = entry.factory(**entry.options), jnp.ones(8)

    def step(x: Any) -> Any:
        given = {"value": jnp.zeros(()), "grad": x, "value_fn": _oracle()}
        return optimizer.update(x, optimizer.init(x), x, **given)

    with _recorded() as asked:
        jax.eval_shape(step, x)
    return asked


def needs(name: str, method: Any, registry: dict[str, Any]) -> str:
    """What all forms of a method ask of the loss, and what only some do."""
    forms = [e for key, e in registry.items() if key == name or e.factory is method]
    if not forms:
        raise ExtensionError(f"{name}: not in tests/contracts.py.")
    asked = [asked_by(entry) for entry in forms]
    always = set.intersection(*asked)
    sometimes = set.union(*asked) - always
    words = ", ".join(["gradients", *sorted(always)])
    return words + (f"; in some forms {', '.join(sorted(sometimes))}" if sometimes else "")


class Optimizers(SphinxDirective):
    """A table of all exported optimizers."""

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        registry = importlib.import_module("tests.contracts")
        self.env.note_dependency(registry.__file__)
        rows = []
        for package in self.config.public_packages:
            module = importlib.import_module(package)
            for name in api.public_names(package):
                method = getattr(module, name)
                if not methods.is_optimizer(method):
                    continue
                if name not in ADVICE:
                    raise ExtensionError(f"{package}.{name}: no words on noise and use.")
                of_gaussians = package == "vi.gaussian"  # by the estimators of that package
                asks = "statistics of a Gaussian's estimator"
                asks = asks if of_gaussians else needs(name, method, registry.TRANSFORMATIONS)
                cost = methods.section(method, "Complexity")
                rows.append([f"`{package}.{name}`", api.summary(method), asks, cost, *ADVICE[name]])
        if len(rows) != len(ADVICE):
            raise ExtensionError("There are words on optimizers that are not exported.")
        header = ["Name", "What it is", "Asks for", "Cost and memory", "Noise", "Use it for"]
        return [methods.table(header, rows)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("optimizers", Optimizers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
