"""From slider to picture, in a real JupyterLab: our panels, an `Image.value` and a matplotlib redraw, in the same run.

Usage: make latency   (python tests/benchmark_panels.py [OUT.json])

A key moves a slider by one step. The time runs from the key press in the page until the first screen frame that shows
the new picture. `draw` is the browser's own share of it. Frames: 64 of 256x256, and 200 of 512x512. LivePanel draws
eight new members in the kernel for each step. One screen frame is 16.7 ms.
"""

import json
import os
import platform
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
from lab import lab

CELLS = [
    """
import io
import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure
from matplotlib.backends.backend_agg import FigureCanvasAgg
from IPython.display import display
from PIL import Image
from sdfdiff import CorruptionPanel, drawing, signed_distance, tissue
from sdfdiff.panels import LivePanel, StackPanel

def corrupted(labels, count):
    clean, noise = 0.02 * signed_distance(labels, 10.0), np.random.default_rng(1).standard_normal(labels.shape)
    return np.stack([clean + level * noise for level in np.geomspace(0.001, 5, count)]).astype(np.float32)

labels = tissue(3, (256, 256)).rate(np.random.default_rng(0))
frames = corrupted(labels, 64)
""",
    """
import matplotlib.pyplot as plt
output, one = widgets.Output(), widgets.IntSlider(0, 0, 63, description="matplotlib")
def redraw(change):
    with output:
        output.clear_output(wait=True)
        figure, axes = plt.subplots(figsize=(3.2, 3.2))
        axes.imshow(frames[change["new"]], cmap="gray", vmin=-1, vmax=1)
        plt.close(figure)
        display(figure)
one.observe(redraw, "value")
display(widgets.VBox([one, output]).add_class("bench-matplotlib"))
redraw({"new": 0})
""",
    """
def encoded(frame):
    file = io.BytesIO()
    Image.fromarray(((frame.clip(-1, 1) + 1) * 127.5).astype(np.uint8)).save(file, "png", compress_level=1)
    return file.getvalue()
two = widgets.IntSlider(0, 0, 63, description="image")
picture = widgets.Image(value=encoded(frames[0]), format="png", width=256)
two.observe(lambda change: setattr(picture, "value", encoded(frames[change["new"]])), "value")
display(widgets.VBox([two, widgets.Box([picture])]).add_class("bench-image"))
""",
    """
three = StackPanel(frames, drawing.NOISE, end=1.0)
three.add_class("bench-stack")
display(three)
""",
    """
four = CorruptionPanel(labels)
four.add_class("bench-corruption")
display(four)
""",
    """
labels = tissue(3, (512, 512)).rate(np.random.default_rng(0))
five = StackPanel(corrupted(labels, 200), drawing.NOISE, end=1.0)
five.add_class("bench-large")
megabytes = sum(len(one["bytes"]) for one in five.canvas.data.values()) / 1e6
display(five)
""",
    """
six = LivePanel(image=np.moveaxis(tissue(1000, (128, 128)).image, -1, 0))
six.add_class("bench-live")
display(six)
""",
]

WAIT = """([box, kind]) => {
  const whole = document.querySelector(box);
  const frame = () => new Promise(requestAnimationFrame);
  window.measured = new Promise((done) => {
    const handle = whole.querySelector('.noUi-handle');
    handle.addEventListener('keydown', () => {
      const start = performance.now();
      const end = async () => { await frame(); done(performance.now() - start); };
      if (kind !== 'image') {
        const drawn = new MutationObserver(() => { drawn.disconnect(); done(performance.now() - start); });
        drawn.observe(whole.querySelector('.sdfdiff'), { attributes: true, attributeFilter: [kind] });
        return;
      }
      const before = whole.querySelector('img')?.src;
      const watch = new MutationObserver(async () => {
        const image = whole.querySelector('img');
        if (!image || image.src === before) return;
        watch.disconnect();
        try { await image.decode(); } catch { /* replaced meanwhile */ }
        end();
      });
      watch.observe(whole, { subtree: true, childList: true, attributes: true, attributeFilter: ['src'] });
    }, { once: true, capture: true });
  });
}"""


def latency(page, box: str, kind: str, steps: int = 40) -> dict[str, float]:
    handle = page.locator(f"{box} .noUi-handle").first
    handle.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    handle.focus()
    times, drawing = [], []
    for _ in range(steps):
        page.evaluate(WAIT, [box, kind])
        page.keyboard.press("ArrowRight")
        times.append(page.evaluate("window.measured"))
        if kind != "image":
            drawing.append(float(page.locator(f"{box} .sdfdiff").get_attribute("data-took")))
        page.wait_for_timeout(60)
    times = times[3:]  # the first ones load code
    found = {
        "median_ms": round(float(np.median(times)), 1),
        "p90_ms": round(float(np.quantile(times, 0.9)), 1),
        "n": len(times),
    }
    return found | ({"draw_median_ms": round(float(np.median(drawing)), 2)} if drawing else {})


def main(out: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source" / "bench.ipynb"
        path.parent.mkdir()
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS])
        book.metadata["kernelspec"] = {"display_name": "python3", "language": "python", "name": "python3"}
        nbformat.write(book, path)
        with lab(Path(folder), [path], height=5500) as (opened, address):
            opened.open(address, "bench.ipynb")
            opened.run_all("six")
            page = opened.page
            for box in ("matplotlib", "image", "stack", "corruption", "large", "live"):
                page.wait_for_selector(f".bench-{box} .noUi-handle", timeout=60000)
            page.wait_for_timeout(2000)
            rows = {
                "matplotlib redraw, 256x256": latency(page, ".bench-matplotlib", "image"),
                "Image.value (PNG), 256x256": latency(page, ".bench-image", "image"),
                "StackPanel, 64 frames of 256x256": latency(page, ".bench-stack", "data-drawn"),
                "CorruptionPanel, 256x256, four pictures": latency(page, ".bench-corruption", "data-drawn"),
                "StackPanel, 200 frames of 512x512": latency(page, ".bench-large", "data-drawn"),
                "LivePanel, 8 new members of 128x128": latency(page, ".bench-live", "data-answered"),
            }
            megabytes, saved = opened.python("[megabytes, five.save('five.html').stat().st_size / 1e6]", 120)
            assert not page.problems, page.problems
    slowest = rows["matplotlib redraw, 256x256"]["median_ms"]
    for row in rows.values():
        row["times_faster_than_matplotlib"] = round(slowest / row["median_ms"], 1)
    for name, row in rows.items():
        draw = f"   of which drawing {row['draw_median_ms']:.1f} ms" if "draw_median_ms" in row else ""
        times = f"median {row['median_ms']:6.1f} ms   p90 {row['p90_ms']:6.1f} ms"
        print(f"{name:42} {times}   {row['times_faster_than_matplotlib']:5.1f} x{draw}")
    print(f"200 frames of 512x512 take {megabytes:.1f} MB in the browser and {saved:.1f} MB as a saved page")
    if out:
        about = {"command": "make latency", "machine": machine()}
        sizes = {"large_stack_MB": round(megabytes, 1), "large_page_MB": round(saved, 1)}
        Path(out).write_text(json.dumps(about | sizes | {"latency": rows}, indent=1) + "\n")


def machine() -> str:
    "Processor and number of cores."
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    processor = names[0] if names else platform.machine()
    return f"{os.cpu_count()} cores, {processor}, headless Chromium without a graphics card"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
