"""Models that people fit, on data that ship with statsmodels and scikit-learn.

They were not chosen for being easy: raw scales, collinear columns, funnels, separated classes,
censoring, a change of regime, symmetric modes, non-smooth densities.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

Problem = tuple[Callable, dict]
MODELS: dict[str, Callable[[], Problem]] = {}


def _named(problem: Callable[[], Problem]) -> Callable[[], Problem]:
    MODELS[problem.__name__] = problem
    return problem


def _frame(name: str):
    import statsmodels.api as sm

    return getattr(sm.datasets, name).load_pandas().data


def _standard(x) -> np.ndarray:
    x = np.asarray(x, float)
    return (x - x.mean(0)) / x.std(0)


@_named
def trend_in_raw_years() -> Problem:
    """Nile flow against the calendar year: slope and intercept are correlated to 0.9999."""
    data = _frame("nile")

    def model(year, flow):
        a = numpyro.sample("a", dist.Normal(0.0, 20000.0))
        b = numpyro.sample("b", dist.Normal(0.0, 100.0))
        s = numpyro.sample("s", dist.HalfNormal(1000.0))
        numpyro.sample("flow", dist.Normal(a + b * year, s).to_event(1), obs=flow)

    return model, {"year": data["year"].to_numpy(), "flow": data["volume"].to_numpy()}


@_named
def collinear_economy() -> Problem:
    """Longley's 16 years of raw, nearly collinear figures, under priors on their scale."""
    data = _frame("longley")
    x = data.drop(columns="TOTEMP").to_numpy(float)
    y = data["TOTEMP"].to_numpy(float)

    def model(x, y):
        scale = y.std() / x.std(0)
        a = numpyro.sample("a", dist.Normal(y.mean(), 10 * y.std()))
        b = numpyro.sample("b", dist.Normal(0.0, 3 * scale).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(y.std()))
        numpyro.sample("y", dist.Normal(a + (x - x.mean(0)) @ b, s).to_event(1), obs=y)

    return model, {"x": x, "y": y}


@_named
def horseshoe_regression() -> Problem:
    """Diabetes progression, ten predictors, horseshoe prior: funnels in every coefficient."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()

    def model(x, y):
        tau = numpyro.sample("tau", dist.HalfCauchy(0.2))
        lam = numpyro.sample("lam", dist.HalfCauchy(jnp.ones(x.shape[1])).to_event(1))
        raw = numpyro.sample("raw", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        b = numpyro.deterministic("b", tau * lam * raw)
        numpyro.sample("y", dist.Normal(x @ b, s).to_event(1), obs=y)

    return model, {"x": _standard(data.data), "y": _standard(data.target)}


@_named
def ordered_votes() -> Problem:
    """Party identification in seven steps (ANES 1996), ordered logit."""
    data = _frame("anes96")
    x = _standard(data[["logpopul", "age", "educ", "income"]])

    def model(x, y):
        b = numpyro.sample("b", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
        base = dist.Normal(jnp.zeros(6), 3.0).to_event(1)
        ordered = dist.transforms.OrderedTransform()
        cut = numpyro.sample("cut", dist.TransformedDistribution(base, ordered))
        with numpyro.plate("voters", len(y)):
            numpyro.sample("y", dist.OrderedLogistic(x @ b, cut), obs=y)

    return model, {"x": x, "y": data["PID"].to_numpy().astype(int)}


@_named
def firms_centred() -> Problem:
    """Investment of 11 firms in 20 years: varying intercepts and slopes, centred."""
    data = _frame("grunfeld")
    firm = np.unique(data["firm"], return_inverse=True)[1]
    x = _standard(np.log(data[["value", "capital"]]))
    y = _standard(np.log(data["invest"]))

    def model(firm, x, y):
        mean = numpyro.sample("mean", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        sd = numpyro.sample("sd", dist.HalfNormal(jnp.ones(3)).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        with numpyro.plate("firms", 11):
            b = numpyro.sample("b", dist.Normal(mean, sd).to_event(1))
        eta = b[firm, 0] + jnp.sum(b[firm, 1:] * x, axis=1)
        numpyro.sample("y", dist.Normal(eta, s).to_event(1), obs=y)

    return model, {"firm": firm, "x": x, "y": y}


@_named
def robust_plant() -> Problem:
    """Stack loss with outliers: Student-t errors of unknown degrees of freedom."""
    data = _frame("stackloss")
    x = data.drop(columns="STACKLOSS").to_numpy(float)

    def model(x, y):
        a = numpyro.sample("a", dist.Normal(0.0, 100.0))
        b = numpyro.sample("b", dist.Normal(jnp.zeros(3), 5.0).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(10.0))
        nu = numpyro.sample("nu", dist.Gamma(2.0, 0.1))
        numpyro.sample("y", dist.StudentT(nu, a + x @ b, s).to_event(1), obs=y)

    return model, {"x": x, "y": data["STACKLOSS"].to_numpy(float)}


@_named
def transplant_survival() -> Problem:
    """Survival after a heart transplant, Weibull, more than a third of the times censored."""
    data = _frame("heart")

    def model(age, days, died):
        a = numpyro.sample("a", dist.Normal(6.0, 3.0))
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        k = numpyro.sample("k", dist.Gamma(2.0, 2.0))
        scale = jnp.exp(a + b * age)
        z = (days / scale) ** k
        log_hazard = jnp.log(k) - jnp.log(scale) + (k - 1) * (jnp.log(days) - jnp.log(scale))
        numpyro.factor("times", jnp.sum(died * log_hazard - z))

    age = _standard(data["age"])
    days = np.maximum(data["survival"].to_numpy(float), 0.5)
    return model, {"age": age, "days": days, "died": data["censors"].to_numpy(float)}


@_named
def two_regimes() -> Problem:
    """Inflation in the USA, two regimes that persist: a hidden Markov model, states summed out."""
    data = _frame("macrodata")

    def model(y):
        mean = numpyro.sample(
            "mean",
            dist.TransformedDistribution(
                dist.Normal(jnp.array([2.0, 1.0]), 2.0).to_event(1),
                dist.transforms.OrderedTransform(),
            ),
        )
        sd = numpyro.sample("sd", dist.LogNormal(jnp.zeros(2), 1.0).to_event(1))
        stay = numpyro.sample("stay", dist.Beta(jnp.full(2, 8.0), 2.0).to_event(1))
        move = jnp.log(jnp.array([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]]))
        seen = dist.Normal(mean, sd).log_prob(y[:, None])

        def step(alpha, row):
            return jax.nn.logsumexp(alpha[:, None] + move, axis=0) + row, None

        alpha, _ = jax.lax.scan(step, seen[0] - jnp.log(2.0), seen[1:])
        numpyro.factor("y", jax.nn.logsumexp(alpha))

    return model, {"y": data["infl"].to_numpy(float)}


@_named
def local_level() -> Problem:
    """Nile flow as a random walk plus noise: a hundred levels and two scales, non-centred."""
    data = _frame("nile")

    def model(y):
        q = numpyro.sample("q", dist.HalfNormal(0.5))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        start = numpyro.sample("start", dist.Normal(0.0, 2.0))
        e = numpyro.sample("e", dist.Normal(jnp.zeros(len(y) - 1), 1.0).to_event(1))
        level = start + q * jnp.concatenate([jnp.zeros(1), jnp.cumsum(e)])
        numpyro.sample("y", dist.Normal(level, s).to_event(1), obs=y)

    return model, {"y": _standard(data["volume"])}


@_named
def visits_with_zeros() -> Problem:
    """Doctor visits (first 2,000 of RAND), zero-inflated negative binomial."""
    data = _frame("randhie").iloc[:2000]
    x = _standard(data.drop(columns="mdvis"))

    def model(x, y):
        a = numpyro.sample("a", dist.Normal(0.0, 2.0))
        b = numpyro.sample("b", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
        size = numpyro.sample("size", dist.Gamma(2.0, 1.0))
        zero = numpyro.sample("zero", dist.Beta(1.0, 1.0))
        counts = dist.NegativeBinomial2(jnp.exp(a + x @ b), size)
        both = jnp.where(
            y == 0,
            jnp.logaddexp(jnp.log(zero), jnp.log1p(-zero) + counts.log_prob(y)),
            jnp.log1p(-zero) + counts.log_prob(y),
        )
        numpyro.factor("y", jnp.sum(both))

    return model, {"x": x, "y": data["mdvis"].to_numpy(float)}


@_named
def softmax_irises() -> Problem:
    """Three irises by softmax with a coefficient for each: one direction is held by the prior."""
    from sklearn.datasets import load_iris

    data = load_iris()

    def model(x, y):
        a = numpyro.sample("a", dist.Normal(jnp.zeros(3), 2.0).to_event(1))
        b = numpyro.sample("b", dist.Normal(jnp.zeros((x.shape[1], 3)), 2.0).to_event(2))
        with numpyro.plate("flowers", len(y)):
            numpyro.sample("y", dist.Categorical(logits=a + x @ b), obs=y)

    return model, {"x": _standard(data.data), "y": data.target}


@_named
def schools_pass_rates() -> Problem:
    """Mathematics above the median in 60 Californian counties: binomial, random effects."""
    data = _frame("star98").iloc[::5].head(60)

    def model(x, passed, total):
        a = numpyro.sample("a", dist.Normal(0.0, 1.5))
        b = numpyro.sample("b", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        with numpyro.plate("counties", len(total)):
            e = numpyro.sample("e", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Binomial(total, logits=a + x @ b + tau * e), obs=passed)

    passed = data["NABOVE"].to_numpy(int)
    total = passed + data["NBELOW"].to_numpy(int)
    x = _standard(data[["LOWINC", "PERASIAN", "PERBLACK", "PERHISP"]])
    return model, {"x": x, "passed": passed, "total": total}


@_named
def small_classroom() -> Problem:
    """Grades of 32 students (Spector): logistic regression under wide Cauchy priors."""
    data = _frame("spector")

    def model(x, y):
        a = numpyro.sample("a", dist.Cauchy(0.0, 10.0))
        b = numpyro.sample("b", dist.Cauchy(jnp.zeros(x.shape[1]), 2.5).to_event(1))
        with numpyro.plate("students", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=a + x @ b), obs=y)

    x = data[["GPA", "TUCE", "PSI"]].to_numpy(float)
    return model, {"x": x, "y": data["GRADE"].to_numpy(int)}


@_named
def median_regression() -> Problem:
    """Food expenditure against income (Engel), Laplace errors: a density with kinks."""
    data = _frame("engel")

    def model(x, y):
        a = numpyro.sample("a", dist.Normal(0.0, 500.0))
        b = numpyro.sample("b", dist.Normal(0.0, 2.0))
        s = numpyro.sample("s", dist.HalfNormal(200.0))
        numpyro.sample("y", dist.Laplace(a + b * x, s).to_event(1), obs=y)

    return model, {"x": data["income"].to_numpy(float), "y": data["foodexp"].to_numpy(float)}


@_named
def one_factor() -> Problem:
    """One factor behind four measures of irises, sign free: two modes, mirror images."""
    from sklearn.datasets import load_iris

    y = _standard(load_iris().data)[::3]

    def model(y):
        load = numpyro.sample("load", dist.Normal(jnp.zeros(y.shape[1]), 1.0).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(jnp.ones(y.shape[1])).to_event(1))
        cov = jnp.outer(load, load) + jnp.diag(s**2 + 1e-4)
        obs = dist.MultivariateNormal(jnp.zeros(y.shape[1]), cov)
        with numpyro.plate("flowers", len(y)):
            numpyro.sample("y", obs, obs=y)

    return model, {"y": y}


@_named
def changing_rate() -> Problem:
    """Yearly sunspot numbers, log-normal with a damped cycle: AR(2) under a stationary prior."""
    data = _frame("sunspots")

    def model(y):
        c = numpyro.sample("c", dist.Normal(0.0, 2.0))
        r = numpyro.sample("r", dist.Beta(8.0, 2.0))
        period = numpyro.sample("period", dist.Gamma(11.0, 1.0))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        nu = numpyro.sample("nu", dist.Gamma(2.0, 0.1))
        first = 2 * r * jnp.cos(2 * jnp.pi / period)
        mean = c + first * y[1:-1] - r**2 * y[:-2]
        numpyro.sample("y", dist.StudentT(nu, mean, s).to_event(1), obs=y[2:])

    return model, {"y": np.sqrt(data["SUNACTIVITY"].to_numpy(float))}
