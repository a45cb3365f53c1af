"""How Sphinx builds the documentation: ``python -m sphinx -W -b html docs docs/_build/html``."""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_ext"), str(ROOT)]

# Executed pages run in a process of their own, which finds the packages and the CPU this way.
os.environ["PYTHONPATH"] = os.pathsep.join(
    path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path
)
os.environ["PATH"] = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Of tqdm without ipywidgets, and of ArviZ 0.23 at import.
quiet = "ignore:IProgress not found,ignore::FutureWarning:arviz"
os.environ.setdefault("PYTHONWARNINGS", quiet)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's alarms of slow compilation

import api  # noqa: E402

project = "Kullback"
author = "The Kullback developers"
release = version = "0.1.0"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
    "api",
    "citations",
    "methods",
    "optimizers",
]
exclude_patterns = ["_build", "_templates", "_ext"]
templates_path = ["_templates"]

# ---- the look ------------------------------------------------------------------------------

html_theme = "furo"
html_title = "Kullback"
html_static_path = ["_static"]
html_css_files = ["kullback.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#30638e", "color-brand-content": "#30638e"},
    "dark_css_variables": {"color-brand-primary": "#8ab6d6", "color-brand-content": "#8ab6d6"},
}

# ---- pages -----------------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "auto"
nb_execution_timeout = 300  # seconds for a cell, also where the machine is busy
nb_execution_raise_on_error = True
nb_merge_streams = True

# ---- the reference ---------------------------------------------------------------------------

default_role = "py:obj"
public_packages = [
    "vi",
    "vi.gaussian",
    "vi.distances",
    "flows",
    "gp",
    "gp.inducing",
    "gp.last_layers",
    "gp.sic",
    "gp.state_space",
    "samplers",
    "samplers.particles",
    "samplers.filters",
    "optim",
]
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autosummary_filename_map = api.filename_map(public_packages)
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Complexity", "returns_style")]
add_module_names = False
maximum_signature_line_length = 88
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"
