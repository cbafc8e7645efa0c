"For `make lab`: save a notebook the way `nbdev_clean` writes it, so that only what was edited changes."

import warnings

from nbdev.clean import clean_jupyter

warnings.filterwarnings("ignore", "Overriding existing pre_save_hook")  # Jupyter reads this file twice


def clean(model, path, **options):
    """nbdev's cleaning, but Jupyter still learns which cells were run here.

    Else it would not trust their panels when the page is loaded again.
    """
    cells = model["content"]["cells"] if model["type"] == "notebook" and "cells" in model["content"] else []
    trusted = [number for number, cell in enumerate(cells) if cell["metadata"].get("trusted")]
    clean_jupyter(model=model, path=path, **options)
    for number in trusted:
        model["content"]["cells"][number]["metadata"]["trusted"] = True  # never reaches the file


c.ContentsManager.pre_save_hook = clean  # noqa: F821 (Jupyter defines c)
c.LabApp.news_url = None  # noqa: F821
