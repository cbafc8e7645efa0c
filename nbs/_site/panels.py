"What the first cell of an executed notebook calls: its panels are shown as saved pages in frames."

from html import escape
from itertools import count
from pathlib import Path

from IPython import get_ipython


def show_panels(folder: str) -> None:
    "Show every object of a class named Panel, of the notebook or of sdfdiff.panels.pages, as a page saved to `folder`."
    place, number = Path(folder), count(1)
    place.mkdir(parents=True)

    def frame(panel, *_, **__) -> dict:
        page = place / f"{next(number)}.html"
        panel.save(page, title=panel.title)
        address = f"../../panels/{place.name}/{page.name}"
        return {
            "text/html": f'<iframe class="panel" src="{address}" title="{escape(panel.title)}" loading="lazy"></iframe>'
        }

    for module in ("__main__", "sdfdiff.panels.pages"):
        get_ipython().display_formatter.mimebundle_formatter.for_type_by_name(module, "Panel", frame)
