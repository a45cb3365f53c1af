"""Proposals of Bayesian optimisation: against grids, and where there is nothing to find."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gp

KEY = jax.random.key(0)
BOX = [[0.0, 6.0], [0.0, 6.0]]


class Known(NamedTuple):
    """A process whose moments are given functions."""

    mean: object
    deviation: object

    def predict(self, x):
        return self.mean(x), self.deviation(x) ** 2


def objective(x):
    return np.cos(2 * x[:, 0]) * np.cos(x[:, 1]) + np.sin(x[:, 0])


def constraint(x):
    return np.cos(x[:, 0]) * np.cos(x[:, 1]) - np.sin(x[:, 0]) * np.sin(x[:, 1]) - 0.5


def grid(count=601):
    line = np.linspace(0, 6, count)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


F = Known(objective, lambda x: 0.2 + 0.1 * np.sin(x[:, 1]))
G = Known(constraint, lambda x: 0.1 + 0.05 * np.cos(x[:, 0]))


def test_without_constraints_it_is_the_lower_confidence_bound():
    found = gp.propose(F, BOX, key=KEY, width=2.0)
    best = (objective(grid()) - 2 * F.deviation(grid())).min()
    assert found.feasible
    assert best - 1e-3 < found.bound < best + 1e-6
    other = (objective(grid()) - 3 * F.deviation(grid())).min()
    assert not best - 1e-3 < other < best + 1e-6  # twin: another width


def test_the_relaxed_problem_is_solved():
    tight = G._replace(mean=lambda x: constraint(x) + 1.4)
    found = gp.propose(F, BOX, key=KEY, constraints=[tight], width=2.0)
    x = grid()
    allowed = constraint(x) + 1.4 - 2 * G.deviation(x) <= 0
    low = objective(x) - 2 * F.deviation(x)
    best = low[allowed].min()
    assert found.violations[0] <= 0
    assert best - 5e-3 < found.bound < best + 1e-4
    assert low.min() < best - 5e-3  # twin: the constraint counts


def test_what_is_infeasible_is_declared_so_and_nothing_else():
    certain = Known(lambda x: 1 + 0.0 * x[:, 0], lambda x: 0.1 + 0.0 * x[:, 0])
    found = gp.propose(F, BOX, key=KEY, constraints=[G, certain])
    assert not found.feasible
    assert np.isnan(found.bound)
    assert np.allclose(found.violations[1], 0.8)
    unsure = certain._replace(deviation=lambda x: 0.6 + 0.0 * x[:, 0])  # twin
    assert gp.propose(F, BOX, key=KEY, constraints=[G, unsure]).feasible
    # Feasible in a hundredth of a thousandth of the box only.
    small = Known(lambda x: ((x - 1.234) ** 2).sum(1) - 1e-4, lambda x: 0.0 * x[:, 0])
    assert gp.propose(F, BOX, key=KEY, constraints=[small]).feasible


@pytest.mark.slow
def test_a_hidden_optimum_is_found_through_a_stream(x64):
    """Twenty-five values of objective and constraint, by streams through inducing inputs."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 6, size=(12, 2))
    knots = np.stack(np.meshgrid(*[np.linspace(0, 6, 8)] * 2), -1).reshape(-1, 2)

    def begin(function):
        first = gp.fit(
            x,
            function(x),
            key=KEY,
            train=False,
            kernel=gp.SquaredExponential(jnp.asarray([1.0, 1.0]), 1.0),
            likelihood=gp.Gaussian(1e-4),
            mean=gp.Zero(),
            method="inducing",
            method_options={"inducing": knots},
        )
        return gp.stream(first, key=KEY, num_memory=0)

    flows = [begin(objective), begin(constraint)]
    values = []
    for step in range(25):
        key = jax.random.fold_in(KEY, step)
        f, g = flows
        found = gp.propose(f, BOX, key=key, constraints=[g], num_points=256, num_rounds=12)
        new = found.x[None]
        values.append((objective(new)[0], constraint(new)[0]))
        flows = [
            flow.update(new, function(new), key=key, num_memory=0)
            for flow, function in zip(flows, (objective, constraint), strict=True)
        ]
    cells = grid()
    best = objective(cells)[constraint(cells) <= 0].min()
    feasible = [f for f, g in values if g <= 0.01]
    assert min(feasible) < best + 0.05
    at_random = objective(x)[constraint(x) <= 0.01]
    assert at_random.min() > best + 0.05  # twin: as many points at random


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="the lower below the upper"):
        gp.propose(F, [[1.0, 0.0]], key=KEY)
    with pytest.raises(ValueError, match="width > 0"):
        gp.propose(F, BOX, key=KEY, width=0.0)
    with pytest.raises(ValueError, match="finite values"):
        gp.search_box(lambda x: np.full(len(x), np.nan), BOX, key=KEY)
    with pytest.raises(ValueError, match="1024 values"):
        gp.search_box(lambda x: np.zeros((2, len(x))), BOX, key=KEY)
