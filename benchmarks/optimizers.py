"""Optimizers on variational problems: who gets how far, with how many gradients and CPU seconds.

    python -m benchmarks.optimizers [--quick] [--out FILE.json] [--docs FOLDER]
                                    [--only METHOD ...] [--problems PROBLEM ...]

Every method with a learning rate has it chosen from five, or from up to fifteen where the best is
at an end, by the median final loss over tuning seeds; what is reported is from other seeds.
Methods without one are run as they are. A method is compiled once for a problem, with learning
rates and seeds as arguments, and its runs follow each other on one thread, so that CPU time is that
of one run. L-BFGS minimises the loss of all data at fixed draws, sixteen times as many as a
stochastic gradient has, and is charged for them. Results are written as they come: a run that was
stopped goes on where it was.
"""

import argparse
import json
import math
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.methods import METHODS, QUICK, Method
from benchmarks.optimizers_report import RATES
from benchmarks.problems import Problem, problems
from optim import Oracle, eval_params
from optim.steps import with_extra_args

SEGMENTS = 20  # of a budget, at whose ends the loss is evaluated
MOST_RATES = 3 * RATES  # where the best of them is at an end of the grid
TUNING_SEEDS = (101, 102, 103)
SEEDS = tuple(range(1, RATES + 1))  # as many as rates: one compiled shape
LBFGS_DRAWS = 16  # times those of a stochastic gradient


def _finite(*trees: Any) -> jax.Array:
    leaves = jax.tree.leaves(trees)
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))


def _lbfgs_cost(problem: Problem) -> float:
    """Stochastic gradients that one of the sample average costs."""
    return 1.0 if problem.fixed else LBFGS_DRAWS * problem.batches


def runner(problem: Problem, method: Method, steps: int) -> Any:
    """A function of rates and seeds that gives losses, gradients and skipped steps.

    It takes ``method.extend`` times as many steps as given, which are those of the budget.

    A step whose loss, gradient or result is not finite is skipped and counted, as in `vi.fit`.
    """
    length = steps // SEGMENTS

    def one(arguments: tuple) -> tuple:
        rate, seed = arguments
        key = jax.random.key(seed, impl="rbg")
        optimizer = with_extra_args(method.make(rate, steps))
        # With fixed draws nothing depends on the seed, and XLA would time all seeds as one.
        q = jax.tree.map(lambda x: x + 1e-30 * seed.astype(x.dtype), problem.start())

        def step(t: jax.Array, carry: tuple) -> tuple:
            q, state, gradients, skipped = carry
            step_key = jax.random.fold_in(key, t)
            loss = problem.oracle(step_key)
            if method.lbfgs:
                draws = LBFGS_DRAWS * problem.draws
                loss = Oracle(lambda q: problem.sample_average(q, key, draws))
                value, grads = optax.value_and_grad_from_state(loss)(q, state=state)
            else:
                value, grads = loss.value_and_grad(q)
            updates, new_state = optimizer.update(
                grads, state, q, value=value, grad=grads, value_fn=loss
            )
            new = optax.apply_updates(q, updates)
            good = _finite(value, grads, new)
            kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), (new, new_state), (q, state))
            if method.lbfgs:
                info = optax.tree.get(new_state, "info")
                gradients += info.num_linesearch_steps * _lbfgs_cost(problem)
            return (*kept, gradients, skipped + ~good)

        def segment(carry: tuple, start: jax.Array) -> tuple:
            carry = jax.lax.fori_loop(start, start + length, step, carry)
            q, state, gradients, _ = carry
            return carry, (problem.evaluate(eval_params(state, q)), gradients)

        state = optimizer.init(q)
        starts = jnp.arange(SEGMENTS * method.extend) * length
        carry = (q, state, jnp.zeros(()), jnp.zeros((), jnp.int32))
        carry, (losses, gradients) = jax.lax.scan(segment, carry, starts)
        return losses, gradients, carry[3]

    return jax.jit(lambda rates, seeds: jax.lax.map(one, (rates, seeds)))


def tune(run: Any, rates: tuple[float, ...]) -> tuple[float, dict]:
    """The rate with the least median of final losses over the seeds for tuning.

    Where it is at an end of the grid, the grid goes on there, up to `MOST_RATES` in all.
    """
    tried: dict[float, float] = {}
    while True:
        finals = [
            np.asarray(run(jnp.asarray(rates), jnp.full(RATES, seed))[0])[:, SEGMENTS - 1]
            for seed in TUNING_SEEDS
        ]
        medians = np.median(np.nan_to_num(finals, nan=np.inf, posinf=np.inf), axis=0)
        tried.update(zip(rates, medians.tolist(), strict=True))
        best = min(tried, key=lambda rate: (tried[rate], rate))
        if best not in (min(tried), max(tried)) or len(tried) >= MOST_RATES:
            found = dict(sorted(tried.items()))
            return best, {"rates": list(found), "final": list(found.values())}
        rates = beyond(best, rates, up=best == max(tried))


def beyond(end: float, rates: tuple[float, ...], *, up: bool) -> tuple[float, ...]:
    """As many rates again, in the same ratio (a decade or its root), below or above an end."""
    place = lambda rate: round(2 * math.log10(rate))
    stride = place(rates[1]) - place(rates[0])
    away = [place(end) + (stride if up else -stride) * i for i in range(1, RATES + 1)]
    return tuple(float(f"{10 ** (k / 2):.0e}") for k in sorted(away))


def measure(problem: Problem, method: Method) -> dict | None:
    """Tune if there is anything to tune, run the seeds, and take the time."""
    start = problem.start()
    parameters = sum(x.size for x in jax.tree.leaves(start))
    if not method.applies(problem, parameters):
        return None
    cost = method.cost(start.dim, parameters)
    if method.lbfgs and not problem.fixed:
        cost = 1.25 * _lbfgs_cost(problem)  # about five evaluations in four iterations
    steps = max(SEGMENTS, int(problem.steps / cost) // SEGMENTS * SEGMENTS)
    arguments = jnp.ones(RATES), jnp.asarray(SEEDS)
    before = time.process_time()
    run = runner(problem, method, steps).lower(*arguments).compile()
    compile_seconds = time.process_time() - before

    tuning = {}
    rate = method.rates[0] if method.rates else None
    if len(method.rates) > 1:
        rate, tuning = tune(run, method.rates)
    before = time.process_time()
    losses, counted, skipped = map(
        np.asarray, run(jnp.full(RATES, rate or 1.0), jnp.asarray(SEEDS))
    )
    seconds = (time.process_time() - before) / RATES
    ends = np.arange(1, SEGMENTS * method.extend + 1) * cost * steps / SEGMENTS
    gradients = counted if method.lbfgs else np.tile(ends, (RATES, 1))
    return {
        "label": method.label,
        "tuned": len(method.rates) > 1,
        "rate": rate,
        "tuning": tuning,
        "steps": steps * method.extend,
        "gradients": gradients.tolist(),
        "losses": losses.tolist(),
        "skipped": skipped.tolist(),
        "cpu_seconds": seconds,
        "compile_seconds": compile_seconds,
    }


def main(
    out: pathlib.Path,
    docs: pathlib.Path | None,
    *,
    quick: bool = False,
    only: Sequence[str] = (),
    names: Sequence[str] = (),
) -> dict:
    """Measure what is not in ``out`` yet; write table and figure under ``docs``.

    They show the problems on which both Adams were run, with which all is compared.

    Args:
      out: raw results.
      docs: a folder.
      quick: two small problems.
      only: methods, if not all.
      names: problems, if not all.
    """
    from benchmarks import optimizers_report

    results = json.loads(out.read_text()) if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    chosen = only or (QUICK if quick else tuple(METHODS))
    for name, problem in problems(quick=quick).items():
        if names and name not in names:
            continue
        done = results.setdefault(
            name, {"about": problem.about, "budget": problem.steps, "methods": {}}
        )["methods"]
        for key, method in METHODS.items():
            if key in done or key not in chosen:
                continue
            before = time.process_time()
            done[key] = measure(problem, method)
            partial = out.with_suffix(".partial")
            partial.write_text(json.dumps(results))
            partial.replace(out)
            if done[key]:
                final = np.median(optimizers_report.final(problem.steps, done[key]))
                spent = time.process_time() - before
                print(f"{name:15s} {key:20s} {final:14.4f}  {spent:6.1f} CPU s", flush=True)
    for problem in results.values():  # in one order, whatever was measured when
        done = problem["methods"]
        problem["methods"] = {key: done[key] for key in METHODS if key in done}
    adams = optimizers_report.ADAMS
    judged = {k: p for k, p in results.items() if all(map(p["methods"].get, adams))}
    if docs is not None and judged:
        optimizers_report.write(judged, docs)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small problems, under a minute")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    parser.add_argument("--docs", type=pathlib.Path, default=None)
    parser.add_argument("--only", nargs="*", choices=METHODS, default=(), help="methods")
    parser.add_argument("--problems", nargs="*", default=(), help="names of problems")
    options = parser.parse_args()
    stem = "bench_optimizers_quick" if options.quick else "bench_optimizers"
    part = options.quick or options.only or options.problems  # not what the docs show
    docs = options.docs or pathlib.Path("out" if part else "docs/generated")
    main(
        options.out or pathlib.Path("out") / f"{stem}.json",
        docs,
        quick=options.quick,
        only=options.only,
        names=options.problems,
    )
