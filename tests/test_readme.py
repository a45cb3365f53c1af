"""The README's blocks of Python, run in order as they are printed."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import vi

pytestmark = pytest.mark.slow
README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """All blocks in one namespace, with pictures and files into a folder of the test."""
    names = {"__name__": "readme"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("readme"))
        for number, text in enumerate(BLOCKS):
            exec(compile(text, f"README.md, block {number}", "exec"), names)
        names["folder"] = Path.cwd()
    plt.close("all")
    return names


def test_the_fit_and_its_draws(page):
    posterior = page["posterior"]
    assert posterior.verdict.grade in ("good", "fair")
    size, width = page["X"].shape
    for draws in (page["draws"], page["corrected"]):
        assert {name: x.shape for name, x in draws.items()} == {
            "intercept": (1000,),
            "beta": (1000, width),
        }
    future = np.asarray(page["future"]["y"])
    assert future.shape[1] == size
    assert np.mean((future.mean(0) > 0.5) == page["y"]) > 0.95
    assert page["idata"].posterior["beta"].shape[-1] == width
    assert page["again"].elbo == posterior.elbo


def test_the_files(page):
    assert (page["folder"] / "beta.png").read_bytes().startswith(b"\x89PNG")
    for name in ("posterior.npz", "fit.npz"):
        assert (page["folder"] / name).exists()


def test_the_ladder_is_needed_and_helps(page):
    """As the text says: the Gaussian is poor, and the mixtures are not."""
    assert page["richer"].rungs[0]["grade"] == "poor"
    assert page["richer"].verdict.grade == "good"


def test_the_objective(page):
    assert isinstance(page["iwelbo"](num_particles=8), vi.Objective)
