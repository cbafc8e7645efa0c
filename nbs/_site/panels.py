"What the first cell of an executed notebook calls: its panels are shown as saved pages in frames."

from itertools import count
from pathlib import Path

from IPython import get_ipython


def show_panels(folder: str, title: str) -> None:
    "Show every object of a class named Panel, here or in sdfdiff.widgets, as a page saved to `folder`."
    place, number = Path(folder), count(1)
    place.mkdir(parents=True)

    def frame(panel, *_, **__) -> dict:
        page, name = place / f"{next(number)}.html", f"{title}, panel {len(list(place.iterdir())) + 1}"
        panel.save(page, title=name)
        address = f"../panels/{place.name}/{page.name}"
        return {"text/html": f'<iframe class="panel" src="{address}" title="{name}" loading="lazy"></iframe>'}

    for module in ("__main__", "sdfdiff.widgets"):
        get_ipython().display_formatter.mimebundle_formatter.for_type_by_name(module, "Panel", frame)
