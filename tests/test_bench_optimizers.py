"""The benchmark of optimizers: its problems, its report, and a small run of it all."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vi
from benchmarks import optimizers, optimizers_report
from benchmarks.problems import Problem
from tests.stats import assert_mean


def fake(losses, cpu, tuned=(), rate=None):
    """A method's results: two runs, four segments."""
    losses = np.asarray(losses, float)
    return {
        "label": "some method",
        "tuned": bool(tuned),
        "rate": rate,
        "tuning": {"rates": [0.1, 1.0], "final": list(tuned)},
        "steps": 40,
        "gradients": np.tile([10, 20, 30, 40], (2, 1)).tolist(),
        "losses": losses.tolist(),
        "cpu_seconds": cpu,
        "compile_seconds": 1.0,
    }


RESULTS = {
    "problem": {
        "about": "made up",
        "budget": 40,
        "methods": {
            "adam_cosine": fake([[9, 7, 5, 4.0], [9, 7, 5, 4.2]], 1.0, [4.0, 3.0], 1.0),
            "adam": fake([[9, 7, 5, 4.5], [9, 7, 5, 4.7]], 1.0, [4.0, 4.5], 0.1),
            "slow": fake([[5, 3, 2, 1.0], [5, 3, 2, np.nan]], 2.0),
            "dear": {
                **fake([[5, 3, 2, 1.0], [5, 3, 2, 1.0]], 2.0),
                "gradients": [[30, 60, 90, 120]] * 2,
            },
            "elsewhere": None,
        },
    }
}


def test_report_counts_what_it_says():
    problem = RESULTS["problem"]
    methods = problem["methods"]
    assert optimizers_report.best(problem) == 1.0
    assert optimizers_report.tuned_adam(problem) is methods["adam_cosine"]
    assert np.isclose(optimizers_report.behind(problem, methods["adam"]), 0.5)
    # Twice as slow: half of its segments fit into the other's time.
    assert list(optimizers_report.at_time(methods["slow"], 1.0)) == [3, 3]
    assert optimizers_report.at_time(methods["slow"], 0.1) is None
    # Three times the gradients: one of its segments fits into the budget.
    assert list(optimizers_report.final(40, methods["dear"])) == [5, 5]
    assert list(optimizers_report.final(20, methods["dear"])) == [np.inf, np.inf]
    text = optimizers_report.markdown(RESULTS)
    assert "| some method | 3.100 (3.200) |" in text
    assert "1*" in text
    assert "∞" in text


def test_grids_go_on_beyond_their_ends():
    """Final losses with a minimum at 3e-5, at 30, and at no rate at all."""

    def run_to(best):
        def run(rates, seeds):
            losses = np.abs(np.log(np.asarray(rates) / best)) if best else np.full(5, np.nan)
            return np.tile(losses[:, None], (1, optimizers.SEGMENTS)), None, None

        return run

    rates = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    for best, number in ((3e-2, 5), (3e-5, 10), (30.0, 10)):
        rate, tuning = optimizers.tune(run_to(best), rates)
        assert rate == best
        assert len(tuning["rates"]) == number
        assert tuning["rates"] == sorted(tuning["rates"])
    assert optimizers.beyond(1e-2, (1e-6, 1e-5, 1e-4), up=True) == (0.1, 1.0, 10.0, 100.0, 1000.0)
    rate, tuning = optimizers.tune(run_to(None), rates)
    assert len(tuning["rates"]) == optimizers.MOST_RATES
    entry = {"tuned": True, "rate": rate, "tuning": tuning}
    assert optimizers_report._rate_cell({}, entry).endswith("* (15)")


def test_evaluation_is_exact_for_a_quadratic():
    """Moment-matched draws leave no Monte Carlo error in second moments."""
    precision = np.geomspace(0.1, 10, 5)
    density = lambda z, key: -0.5 * jnp.sum(jnp.asarray(precision, jnp.float32) * (z - 1) ** 2)
    problem = Problem("", density, lambda: vi.full_rank(5), 4, 10, 64)
    root = np.tril(np.random.default_rng(0).normal(size=(5, 5)))
    q = vi.Gaussian(jnp.zeros(5), vi.full_rank(5).scale.of(jnp.asarray(root, jnp.float32)))
    energy = 0.5 * np.sum(precision * (1 + np.diag(root @ root.T)))
    assert np.isclose(problem.evaluate(q), energy - q.entropy(), rtol=1e-5)


@pytest.mark.parametrize("fixed", [False, True])
def test_loss_is_an_estimate_of_what_is_evaluated(fixed):
    """Unbiased, at a rate of false alarms of 1e-6; the same at all keys if draws are fixed.

    It detects a bias of a third of a draw's standard deviation.
    """
    density = lambda z, key: -jnp.sum(jnp.cosh(z))
    problem = Problem("", density, lambda: vi.mean_field(3), 4, 10, 4096, fixed)
    q = vi.mean_field(3, scale=0.5)
    keys = jax.vmap(lambda s: jax.random.key(s, impl="rbg"))(jnp.arange(400))
    losses = np.asarray(jax.lax.map(lambda key: problem.loss(q, key), keys))
    if fixed:
        assert np.ptp(losses) == 0
        assert np.isclose(problem.evaluate(q), losses[0])
    else:
        assert_mean(losses[:, None], problem.evaluate(q)[None])
        biased = losses + losses.std() / 2
        with pytest.raises(AssertionError):
            assert_mean(biased[:, None], problem.evaluate(q)[None])


@pytest.mark.slow
def test_a_small_run_of_it_all(tmp_path, monkeypatch):
    out = tmp_path / "raw.json"
    results = optimizers.main(out, tmp_path, quick=True)
    assert json.loads(out.read_text()).keys() == results.keys()
    text = (tmp_path / "optimizers.md").read_text()
    assert "normalised A-DoG, averaged" in text
    assert (tmp_path / "optimizers.png").stat().st_size > 10_000
    for problem in results.values():
        methods = problem["methods"]
        final = {
            key: np.median(optimizers_report.final(problem["budget"], entry))
            for key, entry in methods.items()
        }
        assert final["adam_cosine"] < final["adam_default"]  # 200 steps of 0.01 are too few
        assert np.all(np.isfinite(list(final.values())))
    # Everything is there already: nothing is measured again.
    monkeypatch.setattr(optimizers, "measure", None)
    again = optimizers.main(out, tmp_path, quick=True)
    assert again == json.loads(out.read_text())
