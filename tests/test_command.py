"""The command line: from two files to a posterior on disk, and errors that say what to do."""

import json
import re

import arviz
import numpy as np
import pandas
import pytest

import vi
from vi.__main__ import main
from vi.command import fit as command

MODEL = """
import jax.numpy as jnp, numpyro, numpyro.distributions as dist

def regression(X, y, offset=0.0):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(X.shape[1]), 2.0).to_event(1))
    numpyro.sample("y", dist.Normal(offset + X @ b, 1.0).to_event(1), obs=y)

def classes(first, label=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    numpyro.sample("label", dist.Bernoulli(logits=b * first).to_event(1), obs=label)

NUMBER = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a table with a known answer, and one with a hole."""
    out = tmp_path_factory.mktemp("command")
    (out / "model.py").write_text(MODEL)
    rng = np.random.default_rng(0)
    table = pandas.DataFrame(rng.normal(size=(40, 2)), columns=["first", "second"])
    table["group"] = np.where(table["first"] > 0, "up", "down")
    table["y"] = table["first"] - 2 * table["second"] + rng.normal(size=40)
    table.to_csv(out / "data.csv", index=False)
    table.iloc[3:5, 1] = None
    table.to_csv(out / "holes.csv", index=False)
    (out / "empty.csv").write_text("a,b\n")
    return out


@pytest.fixture(scope="module")
def done(folder):
    """The exit status of a fit whose results are in ``results``."""
    return main(
        ["fit", f"{folder}/model.py:regression", f"{folder}/data.csv", "--out",
         f"{folder}/results", "--map", "X=first,second", "--samples", "500"]
    )  # fmt: skip


def test_a_fit_leaves_what_people_and_programs_read(folder, done):
    """Against the closed form: 500 draws, five standard errors."""
    results = folder / "results"
    assert done == 0
    table = pandas.read_csv(folder / "data.csv")
    x = table[["first", "second"]].to_numpy()
    covariance = np.linalg.inv(x.T @ x + np.eye(2) / 4)
    summary = pandas.read_csv(results / "summary.csv", index_col=0)
    mean, sd = covariance @ (x.T @ table["y"].to_numpy()), np.sqrt(np.diag(covariance))
    assert list(summary.index) == ["b[0]", "b[1]"]
    assert np.all(np.abs(summary["mean"] - mean) < 5 * sd / np.sqrt(500) + 1e-4)
    about = json.loads((results / "verdict.json").read_text())
    assert about["grade"] == "good"
    assert about["provenance"]["versions"]["kullback"]
    assert arviz.from_netcdf(results / "posterior.nc").posterior["b"].shape == (1, 500, 2)
    for name in ("marginals.png", "pairs.png", "elbo.png"):
        assert (results / name).stat().st_size > 5000
    again = vi.Posterior.load(
        results / "posterior.vi", command.load(f"{folder}/model.py:regression"),
        X=x, y=table["y"].to_numpy(),
    )  # fmt: skip
    np.testing.assert_allclose(again.q.loc, mean, atol=0.02)


def test_text_is_coded(folder):
    columns = command.columns.read(str(folder / "data.csv"))
    table = pandas.read_csv(folder / "data.csv")
    np.testing.assert_array_equal(columns["group"], table["group"] == "up")


def test_check_agrees(capsys):
    assert main(["check"]) == 0
    assert "agrees with the closed form" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "data", "more", "says"),
    [
        ("absent.py:f", "data.csv", [], "with a file that exists"),
        ("model.py:regresion", "data.csv", [], r"function out of .*'regression'.*'regresion'"),
        ("model.py:NUMBER", "data.csv", [], "function out of"),
        ("model.py:regression", "data.csv", [], "argument 'X': expected a column"),
        ("model.py:regression", "data.csv", ["--map", "X=first,third"], r"unknown \['third'\]"),
        ("model.py:regression", "data.csv", ["--map", "Z=first"], "--map Z=first: expected ARG"),
        ("model.py:classes", "data.csv", [], r"discrete.*'label'.* its default.*--map label=COL"),
        ("model.py:regression", "holes.csv", ["--map", "X=second"], "2 are missing.*row 4"),
        ("model.py:regression", "empty.csv", [], "got none"),
        ("model.py:regression", "absent.csv", [], "absent.csv"),
        ("model.py:regression", "model.py", [], "a .csv or an .npz file"),
        ("model.py:regression", "data.csv", ["--map", "X=first,second", "--family", "big"], "big"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(folder, capsys, model, data, more, says):
    arguments = ["fit", f"{folder}/{model}", f"{folder}/{data}", *more]
    assert main([*arguments, "--out", f"{folder}/none"]) == 2
    message = capsys.readouterr().err
    assert re.search(says, message), message
    assert not (folder / "none").exists()


def test_mappings_add_up():
    """Given one after another, or each by itself."""
    from vi.__main__ import parser

    said = parser().parse_args(["fit", "m.py:f", "d.csv", "--map", "X=a,b", "--map", "y=c", "z=d"])
    assert said.columns == ["X=a,b", "y=c", "z=d"]
