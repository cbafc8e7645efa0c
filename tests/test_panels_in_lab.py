"""The panels as a person uses them: their notebooks in a real JupyterLab, run from the menu, dragged and painted on.

What a canvas holds is compared pixel by pixel with what Python computes from the same state.
"""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from lab import ROOT, lab
from pictures import coloured, expected_corruption, masked, pixels, says, settled

from sdfdiff import drawing
from sdfdiff.diffusion.corruption import VE, VP
from sdfdiff.images.synthetic import tissue
from sdfdiff.panels.pages import colours
from sdfdiff.uncertainty.errors import retained_error
from sdfdiff.uncertainty.margins import margin_trade_off


pytestmark = pytest.mark.browser


IN_LAB = ("2_masks", "3_samplers", "4_ensembles", "live")

# A notebook of its own: with a small network, to know what is drawn however the shipped weights were trained.
LIVE = """
import sys
import time

sys.path.insert(0, {folder!r})
import numpy as np
from sdfdiff.diffusion.model import Model
from sdfdiff.images.synthetic import tissue
from sdfdiff.panels import LivePanel
from small_networks import one_call_network

live = LivePanel(Model(one_call_network(3)), np.moveaxis(tissue(3, (64, 80)).image, -1, 0))
live
===
answer = None
"""


def written(folder: Path) -> Path:
    "The notebook with members drawn live."
    text = LIVE.format(folder=str(ROOT / "tests"))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one.strip()) for one in text.split("===")])
    book.metadata["kernelspec"] = {"display_name": "python3", "language": "python", "name": "python3"}
    nbformat.write(book, folder / "live.ipynb")
    return folder / "live.ipynb"


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    "One JupyterLab and one browser for all notebooks."
    books = [ROOT / "nbs" / "7_panels" / f"{name}.ipynb" for name in IN_LAB[:3]]
    with lab(tmp_path_factory.mktemp("lab"), [*books, written(tmp_path_factory.mktemp("source"))]) as both:
        yield both


@pytest.fixture(scope="module")
def opened(jupyter, request):
    "A notebook of the chapter in JupyterLab, every cell run through the menu."
    one, address = jupyter
    one.page.goto(
        "about:blank"
    )  # what the notebook before was still asking for fails now, and is no problem of this one
    one.page.wait_for_timeout(500)
    one.page.problems.clear()
    one.page.requests.clear()
    one.open(address, f"{request.param}.ipynb")
    one.run_all("answer")
    yield one
    assert not one.page.problems
    own = (address, address.replace("http", "ws"), "data:", "blob:")
    assert not [url for url in one.page.requests if not url.startswith(own)]


in_masks, in_samplers, in_ensembles, in_live = (
    pytest.mark.parametrize("opened", [name], indirect=True) for name in IN_LAB
)


class Box:
    "One panel in the notebook: its pictures, and its controls by label."

    def __init__(self, opened, label: str):
        self.page = opened.page
        for _ in range(100):  # JupyterLab attaches cells as they come into view
            if self.page.locator(f".sdfdiff[aria-label^='{label}']").count():
                break
            self.page.mouse.move(700, 700)
            self.page.mouse.wheel(0, 500)
            self.page.wait_for_timeout(150)
        self.panel = self.page.locator(f".sdfdiff[aria-label^='{label}']").first
        self.panel.scroll_into_view_if_needed()
        self.page.wait_for_timeout(300)
        self.whole = self.page.locator(f".widget-vbox:has(.sdfdiff[aria-label^='{label}'])").last

    def drag(self, label: str, to: float) -> None:
        "Drag a slider's handle to a fraction of its length, with the mouse."
        slider = self.whole.locator(f".widget-slider:has-text('{label}')")
        slider.scroll_into_view_if_needed()  # above a tall panel it may lie outside the window
        self.page.wait_for_timeout(200)
        handle, bar = slider.locator(".noUi-handle").bounding_box(), slider.locator(".noUi-base").bounding_box()
        y = handle["y"] + handle["height"] / 2

        def move():
            self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
            self.page.mouse.down()
            self.page.mouse.move(bar["x"] + to * bar["width"], y, steps=8)
            self.page.mouse.up()

        settled(self.page, self.panel, move)

    def choose(self, label: str, option: str) -> None:
        dropdown = self.whole.locator(f".widget-dropdown:has-text('{label}') select")
        settled(self.page, self.panel, lambda: dropdown.select_option(option))

    def press(self, key: str) -> None:
        self.panel.focus()
        settled(self.page, self.panel, lambda: self.page.keyboard.press(key))

    def point(self, view: str, row: float, column: float, count: tuple[int, int]) -> tuple[float, float]:
        "Where on the screen a data pixel lies."
        box = self.panel.locator(f"canvas[data-view='{view}']").bounding_box()
        return box["x"] + (column + 0.5) / count[1] * box["width"], box["y"] + (row + 0.5) / count[0] * box["height"]


@in_masks
def test_paint(opened):
    box = Box(opened, "paint")

    def same():
        mask = np.array(opened.python("paint.mask.tolist()"))
        distance = np.array(opened.python("paint.distance.tolist()"), np.float32)
        thresholded = np.array(opened.python("paint.thresholded.tolist()"))
        end = opened.python("paint.truncation.value")
        np.testing.assert_array_equal(pixels(box.panel, "mask"), masked(mask))
        np.testing.assert_array_equal(pixels(box.panel, "distance"), coloured(distance, drawing.DISTANCE, -end, end))
        np.testing.assert_array_equal(pixels(box.panel, "thresholded"), masked(thresholded))
        return mask

    first = same()
    start, end = box.point("mask", 80, 20, first.shape), box.point("mask", 70, 110, first.shape)

    def stroke():
        box.page.mouse.move(*start)
        box.page.mouse.down()
        box.page.mouse.move(*end, steps=12)
        box.page.mouse.up()

    settled(box.page, box.panel, stroke)
    painted = same()
    assert painted[80, 20] and painted[75, 65] and painted[70, 110] and not first[80, 20], "the brush left its trace"
    rows = np.nonzero(painted[:, 20])[0]
    assert rows.min() == 80 - 4 and rows.max() == 80 + 4, "as wide as the brush"
    box.choose("boundary", "half_pixel")
    box.drag("truncation", 0.6)
    box.drag("threshold", 0.8)
    assert opened.python("paint.boundary.value") == "half_pixel"
    assert opened.python("paint.truncation.value") > 20 and opened.python("paint.threshold.value") > 4
    same()
    assert f"{opened.python('int(paint.thresholded.sum())')} px²;" in says(box.panel)
    box.page.keyboard.down("Shift")
    settled(box.page, box.panel, stroke)
    box.page.keyboard.up("Shift")
    assert not same()[75, 65], "Shift erases"
    settled(box.page, box.panel, lambda: box.panel.locator("button:has-text('Undo')").click())
    np.testing.assert_array_equal(same(), painted)
    settled(box.page, box.panel, lambda: box.panel.locator("button:has-text('Clear')").click())
    assert not same().any()
    for key in ("ArrowDown", "ArrowRight", " "):
        box.press(key)
    stamped = same()
    assert stamped.sum() == sum(r * r + c * c <= 16 for r in range(-4, 5) for c in range(-4, 5)), (
        "one stamp of the brush"
    )
    opened.run("paint.mask = blob")
    box.page.wait_for_timeout(500)
    np.testing.assert_array_equal(same(), first)


@in_masks
def test_corruption(opened):
    box = Box(opened, "corruption")

    def same(seed, schedule):
        time = opened.python("corruption.time.value")
        halves = (time, time + 1e-9)  # Python rounds 0.8125 down, the browser up
        assert any(f"t = {one:.3f}" in says(box.panel) for one in halves)
        mask = tissue(seed, (128, 128)).rate(np.random.default_rng(0))
        for view, wanted in expected_corruption(mask, schedule, time).items():
            np.testing.assert_array_equal(pixels(box.panel, view), wanted, err_msg=f"{view} at t = {time}")
        return time

    assert same(3, VE()) == 0.25
    box.drag("time t", 0.6)
    dragged = same(3, VE())
    assert 0.5 < dragged < 0.7
    mark = box.panel.locator("[data-view=fragments] .mark").get_attribute("d")
    box.press("ArrowRight")
    assert same(3, VE()) == dragged + 1 / 64
    assert box.panel.locator("[data-view=fragments] .mark").get_attribute("d") != mark, "the mark moves along the curve"
    box.press("ArrowLeft")
    assert same(3, VE()) == dragged
    box.choose("schedule", "VP")
    box.choose("mask", "tissue 5")
    same(5, VP())
    text = says(box.panel)
    box.panel.focus()
    box.page.keyboard.press(" ")
    box.page.wait_for_function(
        "([el, before]) => el.innerText !== before", arg=[box.panel.locator(".says").element_handle(), text]
    )
    assert opened.python("corruption.playing.value") is True
    box.press(" ")
    assert opened.python("corruption.playing.value") is False
    assert same(5, VP()) != dragged, "it played"
    settled(box.page, box.panel, lambda: opened.run("corruption.time.value = 0.125"))
    assert same(5, VP()) == 0.125, "set from Python"


@in_masks
def test_panels_survive_saving_and_reloading(opened):
    "The page is loaded again while the kernel lives on: the panels are there again, as they were."
    page = opened.page
    opened.run("corruption.time.value, corruption.schedule.value, corruption.image.value = 0.375, 'VE', 'tissue 3'")
    page.click("li.lm-MenuBar-item:has-text('File')")
    page.click("li.lm-Menu-item[data-command='docmanager:save']")
    page.wait_for_timeout(3000)
    page.goto(page.url.split("?")[0])
    page.wait_for_selector(".jp-Notebook", timeout=60000)
    box = Box(opened, "corruption")
    text = box.panel.locator(".says").element_handle()
    page.wait_for_function("el => el.innerText.includes('t = 0.375')", arg=text, timeout=20000)
    mask = tissue(3, (128, 128)).rate(np.random.default_rng(0))
    np.testing.assert_array_equal(pixels(box.panel, "mask-sdf"), expected_corruption(mask, VE(), 0.375)["mask-sdf"])


@in_samplers
def test_reverse(opened):
    box = Box(opened, "reverse")

    def same(method):
        opened.run(f"_data = reverse.canvas.runs['{method}'].data")
        shape = opened.python("_data['state']['shape']")
        frame = int(opened.python("reverse.progress.value") * (shape[0] - 1) + 0.5)
        for kind in ("state", "denoised"):
            sent = opened.python(
                f"np.frombuffer(_data['{kind}']['bytes'], np.uint8).reshape({shape})[{frame}].tolist()"
            )
            for member in range(shape[1]):
                wanted = colours(drawing.DISTANCE)[np.array(sent[member])]
                np.testing.assert_array_equal(pixels(box.panel, f"{kind}-{member}"), wanted)

    same("default with 10 calls")
    box.drag("noise → mask", 0.98)
    assert opened.python("reverse.progress.value") > 0.9
    same("default with 10 calls")
    box.choose("method", "heun with 25 calls")
    same("heun with 25 calls")
    assert "of 25 network calls" in says(box.panel) and "heun" in says(box.panel)
    box.press("ArrowLeft")
    same("heun with 25 calls")
    opened.run("del reverse.canvas.runs['paper with 5 calls']; reverse.method.value = 'paper with 5 calls'")
    text = box.panel.locator(".says").element_handle()
    box.page.wait_for_function("el => el.innerText.includes('of 5 network')", arg=text, timeout=20000)  # drawn anew
    box.page.wait_for_timeout(500)
    same("paper with 5 calls")


@in_ensembles
def test_ensemble(opened):
    box = Box(opened, "ensemble")
    opened.run(
        "_mean, _std, _all = dataset['mean'].values, dataset['std'].values, _rounded(dataset['distance'].values)"
    )
    mean, std, members = (np.array(opened.python(f"{name}.tolist()"), np.float32) for name in ("_mean", "_std", "_all"))
    truth = np.array(opened.python("truth.tolist()"))
    for share in (None, 0.62):
        if share:
            box.drag("threshold", share)
        threshold = opened.python("explore.threshold.value")
        inside = (members.astype(np.float64) <= threshold).mean(axis=0).astype(np.float32)
        member = members[opened.python("explore.member.value")]
        for name, values, quantity, low, high in (
            ("mean", mean, drawing.DISTANCE, -10, 10),
            ("spread", std, drawing.SPREAD, 0, float(std.max())),
            ("member", member, drawing.DISTANCE, -10, 10),
            ("P(object)", inside, drawing.PROBABILITY, 0, 1),
        ):
            box.choose("show", name)
            np.testing.assert_array_equal(
                pixels(box.panel, "overlay"), coloured(values, quantity, low, high), err_msg=name
            )
    image = (np.moveaxis(np.array(opened.python("dataset['image'].values.tolist()")), 0, -1) * 255).round()
    np.testing.assert_array_equal(pixels(box.panel, "image"), image)
    x, y = box.point("image", 40, 30, truth.shape)
    settled(box.page, box.panel, lambda: box.page.mouse.click(x, y))
    assert opened.python("explore.pixel") == [40, 30]
    box.press("ArrowDown")
    assert opened.python("explore.pixel") == [41, 30]
    count = int((members[:, 41, 30].astype(np.float64) <= threshold).sum())
    assert f"pixel (41,30): {count} of 16 members" in box.panel.locator("figcaption").nth(1).inner_text()
    assert "truth" in box.panel.locator("[data-view=histogram] .legend").inner_text()
    box.drag("margin", 0.4)
    margin = opened.python("explore.margin.value")
    caught, extra = margin_trade_off(mean.astype(np.float64) <= threshold, truth, margin)
    assert f"grown by {margin:.1f} px, covers {100 * caught:.1f} % of the true object;" in says(box.panel)
    assert f"outside the object it covers another {100 * extra:.1f} %" in says(box.panel)
    overlay = box.panel.locator("canvas[data-view=overlay]")
    box.drag("opacity", 0.9)
    assert float(overlay.evaluate("c => c.style.opacity")) == opened.python("explore.opacity.value") > 0.8
    box.press(" ")
    assert not overlay.is_visible(), "the space bar hides the overlay"
    box.press(" ")
    assert overlay.is_visible()


def dropped(field, keep: float) -> np.ndarray:
    "Pixels not kept; of those that tie as many as it takes, scattered."
    levels, level = np.unique(field, return_inverse=True)
    fewer = np.array([(field < one).mean() for one in levels])[level].reshape(field.shape).astype(np.float32)
    upto = np.array([(field <= one).mean() for one in levels])[level].reshape(field.shape).astype(np.float32)
    scatter = (np.arange(field.size) * 0.6180339887498949 % 1).reshape(field.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = (keep - fewer.astype(float)) / (upto.astype(float) - fewer)
    return (upto > keep) & ((fewer >= keep) | (scatter >= kept))


@in_ensembles
def test_error(opened):
    box = Box(opened, "error")
    opened.run("_maps = _shown_maps(dataset); _mask = masks(dataset)['mmse']")
    mask, truth = np.array(opened.python("_mask.tolist()")), np.array(opened.python("truth.tolist()"))
    ink = colours(drawing.ERROR)[drawing.error_codes(mask, truth)].astype(int)
    for number, name in enumerate(opened.python("list(_maps)")):
        box.choose("uncertainty", name) if number else None
        box.drag("keep the most certain", 0.5 + 0.1 * number)
        keep = opened.python("uncertainty.keep.value")
        field = np.array(opened.python(f"_maps[{name!r}][0].tolist()"), np.float32)
        left_out = dropped(field, keep)
        plain = coloured(field, drawing.SPREAD, float(field.min()), float(field.max())).astype(int)
        for view, values in (("error", ink), ("spread", plain)):
            wanted = np.where(left_out[..., None], (values + 384) >> 2, values)
            np.testing.assert_array_equal(pixels(box.panel, view), wanted, err_msg=f"{view}, {name}")
        remains = retained_error(mask != truth, field, np.array([keep]))[0]
        assert f"{100 * remains:.2f} % of them are wrong" in says(box.panel)
    np.testing.assert_array_equal(pixels(box.panel, "truth"), masked(truth))
    for view, row, column in (("truth", 10, 100), ("spread", 90, 20)):
        settled(box.page, box.panel, lambda at=box.point(view, row, column, truth.shape): box.page.mouse.move(*at))
        assert opened.python("uncertainty.pixel") == [row, column], "the crosshair is linked"
    box.press("ArrowUp")
    assert opened.python("uncertainty.pixel") == [89, 20] and "Pixel (89,20)" in says(box.panel)
    box.press(" ")
    np.testing.assert_array_equal(pixels(box.panel, "error"), ink, err_msg="the space bar undims")


@in_ensembles
def test_wrong_input_is_said_in_the_notebook(opened):
    box = Box(opened, "Explore an ensemble")
    assert box.panel.locator("[role=alert]").inner_text() == opened.python("wrong.message") != ""
    assert not box.panel.locator("canvas").count()


class LiveBox(Box):
    "A panel whose pictures are drawn in the kernel."

    def __init__(self, opened):
        super().__init__(opened, "live")
        self.opened = opened
        opened.run("live.seed.value, live.blend.value, live.strength.value, live.threshold.value = 0, 0.0, 1.0, 0.5")
        opened.run("live.shown.value, live.beside.value = 'masks', 'P(object)'")
        self.answered()
        self.page.wait_for_timeout(500)

    def answered(self) -> dict:
        "Wait until what is shown is what the controls say, and give Python's account of it."
        controls = "[live.seed.value, live.blend.value, live.strength.value, *sum(live.canvas.spots, [])]"
        for _ in range(200):
            self.page.wait_for_timeout(200)
            wanted, answer = self.opened.python(f"[{controls}, live.canvas.answer]")
            if wanted == answer["state"] and self.panel.get_attribute("data-answered") == str(answer["number"]):
                return answer
        raise TimeoutError(f"{wanted} was not drawn: {answer}")

    def same(self) -> np.ndarray:
        "The masks shown, compared with those of Python."
        self.answered()
        threshold = self.opened.python("live.threshold.value")
        inside = np.array(self.opened.python("live.distance.tolist()")) <= threshold
        for k, mask in enumerate(inside):
            np.testing.assert_array_equal(pixels(self.panel, f"member-{k}"), masked(mask), err_msg=f"member {k}")
        votes = inside.sum(axis=0)
        wanted = coloured(votes, drawing.PROBABILITY, 0, 8)
        np.testing.assert_array_equal(pixels(self.panel, "beside"), wanted)
        disputed = 100 * ((votes > 0) & (votes < 8)).mean()
        assert f"they disagree on {disputed:.1f} % of the pixels" in says(self.panel)
        image = (np.moveaxis(np.array(self.opened.python("live.live.image.tolist()")), 0, -1) * 255).round()
        np.testing.assert_array_equal(pixels(self.panel, "image"), image)
        return inside


@in_live
def test_live(opened):
    box = LiveBox(opened)
    first = box.same()
    for label, control, share in (("seed", "seed", 0.5), ("blend", "blend", 0.3), ("strength", "strength", 0.9)):
        box.drag(label, share)
        assert opened.python(f"live.{control}.value") != 0
        moved = box.same()
        assert not np.array_equal(moved, first), f"{label}: other members"
        first = moved
    box.drag("threshold", 0.55)
    number = box.answered()["number"]
    assert not np.array_equal(box.same(), first) and opened.python("live.threshold.value") != 0.5
    box.drag("noise strength", 0.0)
    still = box.same()
    assert (still == still[0]).all() and "strength 0.00: they disagree on 0.0 %" in says(box.panel)
    assert box.answered()["number"] > number
    box.choose("members as", "distances")
    steps = opened.python("live.canvas.settings['steps']")
    counted = np.ceil(np.array(opened.python("live.distance[0].tolist()")) * steps) / steps
    np.testing.assert_array_equal(pixels(box.panel, "member-0"), coloured(counted, drawing.DISTANCE, -10, 10))
    box.choose("beside", "mask of the mean")
    mean = np.array(opened.python("live.distance.mean(axis=0, dtype=float).tolist()"))
    np.testing.assert_array_equal(pixels(box.panel, "beside"), masked(mean <= opened.python("live.threshold.value")))


@in_live
def test_live_paint_and_play(opened):
    box = LiveBox(opened)
    first, image = box.same(), pixels(box.panel, "image")
    x, y = box.point("image", 20, 30, image.shape[:2])
    settled(box.page, box.panel, lambda: box.page.mouse.click(x, y))
    box.same()
    assert opened.python("live.canvas.spots") == [[20, 30, 6, 2]] and "1 spot painted" in says(box.panel)
    painted = pixels(box.panel, "image")
    assert (painted[20, 30] != image[20, 30]).any()
    np.testing.assert_array_equal(painted[:, 50:], image[:, 50:])
    box.press("z")
    np.testing.assert_array_equal(box.same(), first)
    np.testing.assert_array_equal(pixels(box.panel, "image"), image)
    box.choose("paint", "darken")

    def stroke():
        box.page.mouse.move(x, y)
        box.page.mouse.down()
        box.page.mouse.move(x + 60, y + 60, steps=12)
        box.page.mouse.up()

    settled(box.page, box.panel, stroke)
    box.same()
    spots = opened.python("live.canvas.spots")
    assert len(spots) > 2 and all(spot[2:] == [6, 0] for spot in spots)
    settled(box.page, box.panel, lambda: box.panel.locator("button:has-text('Clear')").click())
    np.testing.assert_array_equal(box.same(), first)
    opened.run("walk = []")
    opened.run("live.blend.observe(lambda change: walk.append(change['new']), 'value')")
    box.panel.focus()
    box.page.keyboard.press(" ")
    for _ in range(200):
        if len(opened.python("walk")) > 25:
            break
        box.page.wait_for_timeout(200)
    box.page.keyboard.press(" ")
    walk = opened.python("walk")
    assert max(walk) == 1.0 and np.abs(np.diff([0.0, *walk])).max() < 0.051, "to the next seed and back, step by step"
    np.testing.assert_allclose(walk[:20], np.arange(1, 21) / 20, atol=1e-9)
    box.same()


@in_live
def test_live_draws_the_latest_value_and_no_queue_of_old_ones(opened):
    box = LiveBox(opened)
    number = box.answered()["number"]
    opened.run("quick = live.live.draw; live.live.draw = lambda *noise: (time.sleep(0.4), quick(*noise))[1]")
    box.drag("seed", 0.9)
    for _ in range(30):  # the last move of the mouse may still be on its way
        if (answer := box.answered())["state"][0] > 40:
            break
    assert answer["number"] - number <= 6, "a mouse that moves in eight steps is not followed step by step"
    assert answer["state"][0] > 40
    opened.run("live.live.draw = quick")
