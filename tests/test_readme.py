"""The README's first program runs as it is printed."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import vi

README = Path(__file__).parents[1] / "README.md"


def block(heading: str) -> str:
    """The first block of Python under a heading."""
    _, section = README.read_text().split(f"## {heading}\n", 1)
    found = re.search(r"^```python\n(.*?)^```$", section.split("\n## ", 1)[0], re.M | re.S)
    assert found, f"no block of Python under {heading!r}"
    return found[1]


def test_five_minutes(tmp_path, monkeypatch, capsys):
    """Every line of it, with pictures and files into a folder of the test."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    exec(compile(block("Five minutes"), str(README), "exec"), names)
    plt.close("all")
    posterior = names["posterior"]
    assert str(posterior.verdict) in capsys.readouterr().out
    assert posterior.verdict.grade in ("good", "fair")
    size, width = names["X"].shape
    for draws in (names["draws"], names["corrected"]):
        assert {name: x.shape for name, x in draws.items()} == {
            "intercept": (1000,),
            "beta": (1000, width),
        }
    future = np.asarray(names["future"]["y"])
    assert future.shape[1] == size
    assert np.mean((future.mean(0) > 0.5) == names["y"]) > 0.95
    assert names["idata"].posterior["beta"].shape[-1] == width
    assert (tmp_path / "beta.png").read_bytes().startswith(b"\x89PNG")
    arguments = (names["model"], names["X"])
    back = vi.Posterior.load(tmp_path / "posterior.npz", *arguments, y=names["y"])
    assert back.elbo == posterior.elbo
