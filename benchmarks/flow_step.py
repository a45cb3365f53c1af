"""A step of training a spline flow, and its compilation, beside flowjax.

Eight coupling layers of rational quadratic splines in 50 dimensions, 8 bins, networks with two
hidden layers of 64, reverse KL to a correlated normal with 32 draws, Adam, 32-bit floats. The total
gradient is the plain one of the ELBO; without the score it is the path gradient here, and sticking
the landing, which goes through the flow and back, there.

    python -m benchmarks.flow_step [--peers PYTHON] [--out docs/generated]

Each kind runs in a process of its own; ``--peers`` is a Python in which flowjax is installed.
"""

import argparse
import json
import pathlib
import sys
import time

from benchmarks.process import CpuClock, machine, run_alone

DIM, LAYERS, BINS, WIDTH, BOUND = 50, 8, 8, 64, 4.0
PARTICLES, RATE, STEPS, REPEATS = 32, 1e-3, 100, 7
KINDS = ("kullback total", "kullback path", "flowjax total", "flowjax stl")


def one(library: str, kind: str) -> dict:
    """Seconds to trace and compile a step, and milliseconds of one, median, least and most."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(RATE)
    loss, params = (_ours if library == "kullback" else _flowjax)(kind)

    @jax.jit
    def many(key, params, state):
        def step(carry, key):
            params, state = carry
            value, gradient = loss(key, params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, state), jax.random.split(key, STEPS))

    state = optimizer.init(params)
    jnp.zeros(3).sum().block_until_ready()
    clock = CpuClock()
    compiled = many.lower(jax.random.key(0), params, state).compile()
    compile_seconds, times = clock.read(), []
    carry = params, state
    for number in range(REPEATS):
        started = time.process_time()
        carry, values = jax.block_until_ready(compiled(jax.random.key(number), *carry))
        times.append(1e3 * (time.process_time() - started) / STEPS)
    size = sum(x.size for x in jax.tree.leaves(params))
    times.sort()
    spread = {"step": times[REPEATS // 2], "least": times[0], "most": times[-1]}
    return {"compile": compile_seconds, **spread, "parameters": size, "loss": float(values.mean())}


def _density(z):
    """A normal with neighbours correlated by 0.5, up to a constant."""
    import jax.numpy as jnp

    return -0.5 * z[0] ** 2 - jnp.sum((z[1:] - 0.5 * z[:-1]) ** 2) / 1.5


def _ours(kind):
    import jax
    import jax.numpy as jnp

    import flows
    import vi

    sizes = {"num_layers": LAYERS, "num_bins": BINS, "bound": BOUND, "hidden": (WIDTH, WIDTH)}
    q = flows.neural_spline(DIM, key=jax.random.key(0), **sizes).around(vi.full_rank(DIM))
    q = q.whitened()
    target = vi.target(_density, jnp.zeros(DIM))
    if kind == "path":
        return (lambda key, q: q.default_estimator(PARTICLES)(key, q, target)), q

    def total(q, key):
        z, log_q = q.draw_and_log_prob(q.noise(key, PARTICLES))
        return jnp.mean(log_q - jax.vmap(target.log_density)(z))

    return (lambda key, q: jax.value_and_grad(total)(q, key)), q


def _flowjax(kind):
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import paramax
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow
    from flowjax.train.losses import ElboLoss

    flow = coupling_flow(
        jax.random.key(0),
        base_dist=Normal(jnp.zeros(DIM)),
        transformer=RationalQuadraticSpline(knots=BINS, interval=BOUND),
        flow_layers=LAYERS,
        nn_width=WIDTH,
        nn_depth=2,
        invert=False,
    )
    elbo = ElboLoss(_density, num_samples=PARTICLES, stick_the_landing=kind == "stl")
    trained = lambda leaf: isinstance(leaf, paramax.NonTrainable)
    params, static = eqx.partition(flow, eqx.is_inexact_array, is_leaf=trained)
    return (lambda key, params: jax.value_and_grad(elbo)(params, static, key)), params


def _write(out: pathlib.Path, rows: dict) -> None:
    base = rows["kullback total"]["step"]
    head = ["step", "parameters", "compile, CPU s", "step, CPU ms", "least", "most"]
    head += ["ratio", "loss"]
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        if "error" in row:
            lines.append([name, row["error"][:80], *[""] * 6])
            continue
        spread = [f"{row[key]:.1f}" for key in ("step", "least", "most")]
        cells = [name, f"{row['parameters']:,}", f"{row['compile']:.1f}", *spread]
        lines.append([*cells, f"{row['step'] / base:.2f}", f"{row['loss']:.2f}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = f"""# A step of a spline flow

Written by `python -m benchmarks.flow_step --peers PYTHON` on {machine("jax", "distrax")}, flowjax
beside it in an environment of its own.

{LAYERS} coupling layers of rational quadratic splines, D = {DIM}, {BINS} bins, two hidden layers of
{WIDTH}; reverse KL with {PARTICLES} draws, Adam, 32-bit floats. Medians of {REPEATS} times {STEPS}
steps; *ratio* is to the total gradient here. *stl* is sticking the landing, through the flow and
back; the path gradient here is the same estimator from one way through.

{table}
"""
    (out / "flow_step.md").write_text(text)


def main() -> None:
    """Measure each kind in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "KIND"))
    parser.add_argument("--peers", help="a Python in which flowjax is installed")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    rows = {}
    for name in KINDS:
        library, kind = name.split(" ")
        if library == "flowjax" and not options.peers:
            continue
        python = options.peers if library == "flowjax" else sys.executable
        rows[name] = run_alone("benchmarks.flow_step", library, kind, python=python)
        print(name, rows[name], file=sys.stderr, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    _write(options.out, rows)


if __name__ == "__main__":
    main()
