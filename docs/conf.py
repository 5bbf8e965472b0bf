"""Configuration of Sphinx."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# It calls a method of Sphinx that is to be removed; the release that runs on Python 3.11 is not renewed.
warnings.filterwarnings("ignore", module="sphinx_autodoc_typehints", category=DeprecationWarning)

_info = metadata("sfm-tools")
project = "sfm"
author = "The sfm developers"
copyright = f"2026, {author}"
version = release = _info["Version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "_prose_returns",
    "_table_of",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "Thumbs.db", ".DS_Store", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
default_role = "literal"
language = "en"

autodoc_member_order = "bysource"
autosummary_generate = True
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"
copybutton_prompt_is_regexp = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_include_init_with_doc = False
napoleon_use_param = True
nb_execution_mode = "off"
nb_merge_streams = True
typehints_defaults = "braces"
typehints_document_rtype = False
# Names that are imported for annotations alone, in packages that are documented elsewhere.
suppress_warnings = ["sphinx_autodoc_typehints.guarded_import", "sphinx_autodoc_typehints.forward_reference"]

# Inventories come from the network, so a build without one leaves names of other packages unlinked.
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/pandas-docs/stable/", None),
        "python": ("https://docs.python.org/3/", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "scvi-tools": ("https://docs.scvi-tools.org/en/stable/", None),
        "torch": ("https://pytorch.org/docs/stable/", None),
    }
    if os.environ.get("DOCS_INTERSPHINX")
    else {}
)

html_theme = "sphinx_book_theme"
html_title = "sfm"
html_theme_options = {
    "path_to_docs": "docs",
    "repository_url": "https://github.com/sfm-tools/sfm-tools",
    "use_repository_button": True,
}
