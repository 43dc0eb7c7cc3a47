"""How Sphinx builds the pages: MyST reads the Markdown files as they are, Furo draws them.

The source folder is the repository's root, so that a link works on GitHub and in the built pages
alike. Nothing is fetched, neither to build the pages nor to read them.

    bash launch/docs.sh
"""

project = "date_jax"
root_doc = "docs/index"
extensions = ["myst_parser"]
# Environments, runs and everything else of the root are no pages.
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = ["docs/_build", ".venv", ".ci", "runs", "date_jax", "tests", "configs", "launch"]
myst_heading_anchors = 3  # a heading's link, as on GitHub
html_theme = "furo"
html_title = "date_jax"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["pages.css"]
