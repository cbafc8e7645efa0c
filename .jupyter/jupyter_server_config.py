"Used by `make lab`: a notebook is saved the way `nbdev_clean` writes it, so that saving changes nothing but what was edited."

from nbdev.clean import clean_jupyter

c.ContentsManager.pre_save_hook = clean_jupyter  # noqa: F821 (Jupyter defines c)
