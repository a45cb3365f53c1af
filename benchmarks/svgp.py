"""A step of the sparse variational process beside GPJax's and GPyTorch's; writes a page of docs.

    python -m benchmarks.svgp [--peers PYTHON] [--steps 250] [--out docs/generated]

M = 256 inducing inputs, minibatches of 256, a natural-gradient step of rate 0.1 and one of Adam of
rate 0.01, on 5,000 points of a Matérn-3/2 draw, from the same inputs and start. Each runs in fresh
processes; ``--peers`` is a Python in which gpjax and gpytorch are installed.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

from benchmarks import gp_peers
from benchmarks.fields import FIELDS

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
NAMES = {
    "kullback": "kullback",
    "kullback32": "kullback, 32-bit floats",
    "gpjax": "GPJax, `fit_natgrads`",
    "gpytorch": "GPyTorch, `NGD` and Adam",
}


def kullback(steps, *, wide=True):
    """CPU seconds of a fit without its last look at all data, and the NLPD."""
    import jax

    import gp

    jax.config.update("jax_enable_x64", val=wide)
    dtype = np.float64 if wide else np.float32
    x, y, x_new, y_new = (a.astype(dtype) for a in FIELDS["draw"]())
    z = x[np.random.default_rng(0).permutation(len(x))[: gp_peers.INDUCING]]
    start, marks = time.process_time(), []
    found = gp.fit(
        x,
        y,
        key=jax.random.key(0),
        kernel=gp.Matern(np.ones(2, dtype), 1.0),
        mean=gp.ConstantMean(0.0),
        likelihood=gp.Gaussian(gp_peers.NOISE),
        method="inducing",
        method_options={"inducing": z},
        minibatches=gp.Minibatches(gp_peers.BATCH),
        num_steps=steps,
        callback=lambda *_: marks.append(time.process_time()) and None,
        on_failure="return",
    )
    nlpd = -float(np.mean(found.log_predictive_density(x_new, y_new)))
    return marks[-1] - start, nlpd


def peer(name, steps):
    gp_peers.STEPS = steps
    found = {"gpjax": gp_peers.gpjax, "gpytorch": gp_peers.gpytorch}[name]("draw")
    return found["fit"], found["nlpd"]


def one(name, steps):
    """The first call, of two steps and as many more; a second call of the same."""
    call = {
        "kullback": kullback,
        "kullback32": lambda steps: kullback(steps, wide=False),
    }.get(name, lambda steps: peer(name, steps))
    first, _ = call(2)
    again, _ = call(2)
    long, nlpd = call(steps)
    return {
        "who": NAMES[name],
        "ms a step": 1e3 * (long - again) / (steps - 2),
        "first call, 2 steps, s": first,
        "second call, 2 steps, s": again,
        "steps": steps,
        "NLPD": nlpd,
    }


def alone(python, name, steps):
    command = [python, "-m", "benchmarks.svgp", "--one", name, "--steps", str(steps)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    from benchmarks.process import machine
    from benchmarks.within import table

    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/generated"))
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--peers")
    parser.add_argument("--one")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.steps)))
        return
    peers = [(args.peers, name) for name in ("gpjax", "gpytorch")] if args.peers else []
    rows = []
    for python, name in [(sys.executable, "kullback"), (sys.executable, "kullback32"), *peers]:
        rows.append(alone(python, name, args.steps))
        print(rows[-1], flush=True)
        about = machine("jax", "numpy")
        found = {"machine": about, "rows": rows}
        (args.out / "svgp.json").write_text(json.dumps(found, indent=1) + "\n")
        (args.out / "svgp.md").write_text(page(about, table(rows)))


def page(about, rows):
    return f"""# A step of the sparse variational process

Written by `python -m benchmarks.svgp` on {about}.
CPU seconds of fresh processes on one thread, in 64-bit floats unless said; the machine ran other
work beside them, so that they are good to about a fifth.

5,000 points of a Matérn-3/2 draw in the unit square, 1,000 left out; 256 inducing inputs, which are
trained too, minibatches of 256. Each takes a natural-gradient step of rate 0.1 and a step of Adam
of rate 0.01, from the same inputs and start. A step is timed without compilation; the second call
of two steps says what a library compiles again. NLPD is minus the mean log density of what was left
out, in nats; kullback's steps end with one look at all data, which is not in its times.

{rows}
"""


if __name__ == "__main__":
    main()
