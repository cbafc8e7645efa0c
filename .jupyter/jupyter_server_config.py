"For `make lab`: save a notebook the way `nbdev_clean` writes it, so that only what was edited changes."

from nbdev.clean import clean_jupyter

c.ContentsManager.pre_save_hook = clean_jupyter  # noqa: F821 (Jupyter defines c)
