"""The site: ``sphinx-build -W -n docs site`` builds it, without the network.

Pages are MyST Markdown, tutorials are notebooks with the outputs that ``docs/notebooks.py`` wrote. Equations become
MathML, which browsers draw by themselves, so that they show offline too.
"""

import sys
from importlib.metadata import version as installed
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

project = "zf_pyro"
author = "the authors of zf_pyro"
copyright = "2026, the authors of zf_pyro"  # a name that Sphinx fixes
release = version = installed("zf-pyro")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
extensions += ["site_parts"]
exclude_patterns = ["results/*"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # docs/notebooks.py runs them
nb_merge_streams = True

html_theme = "pydata_sphinx_theme"
html_title = f"zf_pyro {version}"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_theme_options = {
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
_WHOLE_WIDTH = ("index", "start", "changes", "speed", "results", "reliability", "glossary")
html_sidebars = {page: [] for page in _WHOLE_WIDTH}
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # by the reader's system

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False

# Names of other packages: their sites are not read, so that the build needs no network.
_OTHERS = (
    "torch pyro numpy np arviz xarray xr pandas pd lightning matplotlib jsonargparse optuna collections typing pathlib",
    "abc dataclasses logging enum os io functools argparse datetime",
)
nitpick_ignore_regex = [("py:.*", rf"({'|'.join(' '.join(_OTHERS).split())})\b.*")]
