"""The table: objective x estimator x site x control flow. Every cell is unbiased, or an error.

The combinations are those of `tests.matrix`, from which the documentation makes its table. Each
unbiased cell compares the mean of 8192 gradients with quadrature or enumeration. False
alarms: at most 1e-6 for a cell; a bias of 0.08 standard deviations of one estimate is detected.
Failures of other libraries that are rows here: sites inside scan, jit or vmap whose draws are
frozen; custom derivatives refused; supports that move; importance-weighted bounds of discrete
sites without, or with the wrong sign of, a score term.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer import RenyiELBO

import vi
from tests.gradients import NUM, attempt, compare, gradients
from tests.matrix import CELLS, ESTIMATORS, OBJECTIVES, STICKING, THETA, guide, model
from vi.compile import quick_jit

QUICK = {
    ("iwae", "normal", "doubly"), ("elbo", "normal", "measure"), ("iwae", "bernoulli", "score"),
    ("elbo", "bernoulli", "enumerate"), ("iwae", "bernoulli", "enumerate"),
    ("elbo", "von_mises", "accept_reject"),
    ("iwae", "poisson", "running"),
}  # fmt: skip
RUN = [
    pytest.param(*cell, verdict, marks=() if cell in QUICK else pytest.mark.slow)
    for cell, verdict in CELLS.items()
    if verdict != "error"
]


def params():
    return {name: jnp.array(x) for name, x in THETA.items()}


def _with(program, estimator):
    return vi.program.with_estimator(program, ESTIMATORS[estimator])


@pytest.mark.parametrize(("objective", "law", "estimator", "verdict"), RUN)
def test_one_site(objective, law, estimator, verdict, x64):
    entry = OBJECTIVES[objective]
    found = gradients(_with(entry.objective, estimator), params(), model, guide, law)
    if verdict == "unbiased":
        compare(found, lambda p: entry.exact(law, p), params())
        return
    with pytest.raises(AssertionError):
        compare(found, lambda p: entry.exact(law, p), params())


def test_every_objective_has_its_mean(x64):
    """All of them at once, under pathwise gradients: the quick part of the table's first column."""

    def one(key):
        losses = {name: entry.objective.loss for name, entry in OBJECTIVES.items()}
        each = lambda loss: jax.value_and_grad(lambda p: -loss(key, p, model, guide, "normal"))
        return {name: each(loss)(params()) for name, loss in losses.items()}

    found = quick_jit(jax.vmap(one))(jax.random.split(jax.random.key(2), NUM))
    for name, entry in OBJECTIVES.items():
        compare(
            jax.tree.map(np.asarray, found[name]), lambda p, e=entry: e.exact("normal", p), params()
        )


REFUSED = [cell for cell, verdict in CELLS.items() if verdict == "error" and cell[0] == "elbo"]
STICKY = [
    cell for cell, verdict in CELLS.items()
    if verdict == "error" and cell[2] in STICKING and CELLS["elbo", *cell[1:]] == "unbiased"
]  # fmt: skip


@pytest.mark.parametrize(("objective", "law", "estimator"), REFUSED)
def test_what_a_site_does_not_allow_is_an_error(objective, law, estimator):
    """Sites are checked before the objective is known, so once is enough."""
    with pytest.raises(vi.TargetError, match=r"guide site 'z' \(.*Score"):
        attempt(_with(OBJECTIVES[objective].objective, estimator), params(), model, guide, law)


@pytest.mark.parametrize(("objective", "law", "estimator"), STICKY)
def test_sticking_the_landing_is_for_linear_objectives(objective, law, estimator):
    with pytest.raises(vi.TargetError, match=r"linear in log q.*DoublyReparameterized"):
        attempt(_with(OBJECTIVES[objective].objective, estimator), params(), model, guide, law)


# ---- twins: estimators that are known to be wrong must fail ------------------------------------


@vi.objective
def sticky_iwae(p, q):
    z = q.sample(2)
    log_w = p.log_density(z) - q.log_density(z, through="draws")
    return jax.nn.logsumexp(log_w) - jnp.log(2.0)


@vi.objective
def frozen_elbo(p, q):
    z = q.sample(2, detached=True)
    return jnp.mean(p.log_density(z) - q.log_density(z))


@pytest.mark.parametrize(
    ("program", "law", "exact"),
    [(sticky_iwae, "normal", "iwae"), (frozen_elbo, "bernoulli", "elbo")],
)
def test_twins_fail(program, law, exact, x64):
    found = gradients(program(), params(), model, guide, law)
    with pytest.raises(AssertionError):
        compare(found, lambda p: OBJECTIVES[exact].exact(law, p), params())


@pytest.mark.slow
def test_numpyros_renyi_bound_fails_on_discrete_sites(x64):
    def one(key):
        loss = RenyiELBO(alpha=0, num_particles=2).loss
        value, grads = jax.value_and_grad(lambda p: -loss(key, p, model, guide, "bernoulli"))(
            params()
        )
        return value, grads

    found = quick_jit(jax.vmap(one))(jax.random.split(jax.random.key(0), NUM))
    with pytest.raises(AssertionError):
        compare(
            jax.tree.map(np.asarray, found),
            lambda p: OBJECTIVES["iwae"].exact("bernoulli", p),
            params(),
        )
