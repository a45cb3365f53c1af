"""Hyperparameters from several starts: the best is found, and the verdict says how many did."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import gp
from gp.model import Model
from gp.parameters import unconstrained
from gp.starts import Ends, drawn_starts

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = np.linspace(0, 10, 40)
Y = np.sin(2 * np.pi * X / 1.7) + 0.1 * RNG.normal(size=40)


def fit(num_starts, period=0.6, **options):
    return gp.fit(
        X,
        Y,
        key=KEY,
        kernel=gp.Periodic(period=period, lengthscale=1.0),
        likelihood=gp.Gaussian(0.1),
        mean=gp.Zero(),
        num_starts=num_starts,
        **options,
    )


@pytest.mark.slow
def test_several_starts_leave_a_bad_optimum(x64):
    one, several = fit(1), fit(8)
    assert one.verdict.grade == "good"  # of a period that is none
    assert several.elbo > one.elbo + 10
    period = float(several.model.kernel.period)
    assert abs(period / 1.7 - round(period / 1.7)) < 0.02  # the period, or a multiple
    assert "starts ended within 1.0 nats" in several.verdict.text
    starts = several.provenance["starts"]
    assert len(starts) == 8
    assert several.elbo > max(starts) - 0.01
    assert abs(starts[0] - one.elbo) < 1.5  # the given one is the first


@pytest.mark.slow
def test_starts_of_other_likelihoods_go_side_by_side(x64):
    labels = (Y > 0) * 1.0
    found = gp.fit(X, labels, key=KEY, likelihood=gp.Bernoulli(), num_starts=3)
    alone = gp.fit(X, labels, key=KEY, likelihood=gp.Bernoulli())
    starts = found.provenance["starts"]
    assert np.isclose(starts[0], alone.elbo, atol=0.05)
    assert found.elbo > alone.elbo - 0.05


def model():
    return Model(gp.Matern(jnp.ones(1), jnp.asarray(2.0)), gp.ConstantMean(jnp.zeros(())), None)


def test_starts_are_drawn_and_the_verdict_counts():
    own = model()
    values = unconstrained(own, ["kernel.lengthscale", "kernel.variance", "mean.constant"])
    priors = {"kernel.lengthscale": dist.LogNormal(3.0, 1e-3)}
    drawn = drawn_starts(KEY, own, values, priors, 400)
    assert drawn["kernel.variance"].shape == (400,)
    assert np.isclose(drawn["kernel.variance"][0], np.log(2.0))
    assert 1.2 < np.std(drawn["kernel.variance"][1:]) < 1.8
    np.testing.assert_allclose(drawn["kernel.lengthscale"][1:], 3.0, atol=0.01)
    ends = Ends(own, None, np.array([1.0, 5.0, 4.8, -np.inf]))
    assert ends.agreeing == 2
    assert ends.note().startswith("2 of 4 starts")
    assert "4.0 nats below" in ends.note()
    assert not ends.cautions()
    lonely = ends._replace(elbos=np.array([1.0, 5.0, 3.5]))  # twin
    assert "Only one of 3" in lonely.cautions()[0]
    assert not np.any(drawn["mean.constant"])


def test_wrong_numbers_of_starts_are_named():
    with pytest.raises(ValueError, match="num_starts to be an integer"):
        fit(0)
    with pytest.raises(ValueError, match="with hyperparameters to train"):
        fit(2, train=False)
