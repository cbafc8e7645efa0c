"Sphinx settings of the site; `build.py` lays out the pages and calls Sphinx."

from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
settings = ConfigParser()
settings.read(HERE.parents[1] / "settings.ini", encoding="utf8")
about = settings["DEFAULT"]

project = about["title"]
author = about["author"]
copyright = about["copyright"]
version = release = about["version"]

extensions = ["myst_nb", "sphinx.ext.mathjax"]
root_doc = "nbs/index"
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

# Everything a page needs lies beside it: the package carries MathJax 3, of which this one file draws all formulas.
mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / "tex-svg-full.js"
mathjax_path = mathjax.name
html_static_path = ["site.css", "site.js", str(mathjax)]
html_css_files = ["site.css"]
html_js_files = ["site.js"]

html_theme = "sphinx_book_theme"
html_title = f"{project}: the course"
html_copy_source = False
html_use_index = False
html_show_search_summary = False  # would be fetched, which a browser refuses to a page from the disk
html_favicon = "icon.svg"
html_context = {"default_mode": "light"}  # the pictures are drawn on white
html_theme_options = {"home_page_in_toc": True, "use_download_button": False, "navbar_persistent": []}
