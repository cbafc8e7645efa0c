"What a panel shows, and what it should show: for the tests that compare them pixel by pixel."

import numpy as np

from sdfdiff import drawing
from sdfdiff.panels import masks
from sdfdiff.panels.pages import colours

READ = "c => [c.height, c.width, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]"


def pixels(panel, view: str) -> np.ndarray:
    "What a canvas shows, uint8, shape (row, column, 3)."
    rows, columns, values = panel.locator(f"canvas[data-view='{view}']").evaluate(READ)
    values = np.array(values, np.uint8).reshape(rows, columns, 4)
    assert (values[..., 3] == 255).all()
    return values[..., :3]


def coloured(values, quantity, low: float, high: float) -> np.ndarray:
    "The colours that `values` should have on a scale from low to high."
    index = ((np.asarray(values, np.float64) - low) * (256 / (high - low))).clip(0, 255).astype(int)
    return colours(quantity)[index]


def masked(mask) -> np.ndarray:
    return colours(drawing.MASK)[np.where(mask, 255, 0)]


QUIET = """([el, before]) => {
  const drawn = el.dataset.drawn, now = performance.now();
  if (el.seen !== drawn) [el.seen, el.since] = [drawn, now];
  return drawn !== before && now - el.since > 300;
}"""


def settled(page, panel, act) -> None:
    "Do something, and wait until the panel has drawn, and has drawn no more for a while."
    before = panel.get_attribute("data-drawn")
    act()
    page.wait_for_function(QUIET, arg=[panel.element_handle(), before], timeout=30000)


def says(panel) -> str:
    return panel.locator(".says").inner_text()


def expected_corruption(mask, schedule, time: float) -> dict[str, np.ndarray]:
    "The four pictures of the corruption panel at one time, by name."
    level = masks._schedule_levels(schedule)[round(time * 64), 0]
    result, end = {}, 0.2 + 2 * float(level)
    for name, clean in zip(("sdf", "binary"), masks._targets(mask)):
        noisy = masks._corrupted(clean, masks._standard_noise(mask.shape), level)
        result[f"field-{name}"] = coloured(noisy, drawing.DISTANCE, -end, end)
        result[f"mask-{name}"] = masked(noisy <= 0)
    return result
