"""Small copies of the pictures that the examples make: ``python docs/_ext/thumbnails.py out``."""

import pathlib
import sys

from PIL import Image

WIDTH = 560  # pixels; twice what the page shows
PICTURES = (
    "eight_schools_pairs",
    "logistic_regression",
    "new_divergence",
    "flow_posterior",
    "elevation",
    "digits_last_layer",
    "next_point",
    "streams",
    "bayesian_neural_network",
    "tighter_bounds",
)


def main(made: pathlib.Path) -> None:
    """Write them for the gallery."""
    where = pathlib.Path(__file__).parents[1] / "_static" / "gallery"
    for name in PICTURES:
        path = made / f"{name}.png"
        if not path.exists():
            print(f"No {path}: its thumbnail stays as it is.")
            continue
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((WIDTH, WIDTH))
            small.quantize(64).save(where / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
