"Saved panels, opened from disk in a browser without a network, and compared pixel by pixel with Python."

from pathlib import Path

import browser
import numpy as np
import pytest
from pictures import coloured, expected_corruption, masked, pixels, says, settled
from small_networks import one_call_network, random_network

from sdfdiff import drawing
from sdfdiff.diffusion.corruption import VP
from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.distance import signed_distance
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.objects import objects_of
from sdfdiff.ensembles.method import untuned
from sdfdiff.images.synthetic import tissue
from sdfdiff.panels import CorruptionPanel, EnsemblePanel, ErrorPanel, LivePanel, PaintPanel, ReversePanel, StackPanel
from sdfdiff.panels.ensembles import _objects, _rounded, _shown_maps
from sdfdiff.panels.pages import codes, colours
from sdfdiff.panels.samplers import method_with, reverse_run
from sdfdiff.uncertainty.errors import retained_error
from sdfdiff.uncertainty.margins import grown, margin_trade_off


pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def material():
    "A scene of 64x64 with an ensemble of 6 members and a rater's mask."
    scene, model = tissue(3, (64, 64)), load_model("tissue")
    image, truth = np.moveaxis(scene.image, -1, 0), scene.rate(np.random.default_rng(1)) > 0
    return model, image, truth, ensemble(model, image, untuned("dpm_sde", 4), members=6, truth=truth, progress=False)


@pytest.fixture(scope="module")
def tab():
    "One browser without a network for all saved pages."
    with browser.page(900, 1000, offline=True) as page:
        yield page


@pytest.fixture
def shown(tmp_path, tab):
    "A function that saves a panel, opens it offline and gives the browser's page and the panel in it."
    tab.set_viewport_size({"width": 900, "height": 1000})
    tab.problems.clear()
    tab.requests.clear()

    def show(panel):
        path = panel.save(tmp_path / "panel.html", force=True)
        tab.goto(path.as_uri())
        tab.wait_for_selector(".sdfdiff[data-drawn], [role=alert]")
        tab.wait_for_selector("body[data-ready]")
        return tab, tab.locator(".sdfdiff")

    yield show
    assert not tab.problems
    assert all(url.startswith(("file:", "data:", "blob:")) for url in tab.requests)


def slide(page, panel, name: str, value: float) -> None:
    write = "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }"
    settled(page, panel, lambda: page.locator(f".sdfdiff-controls [name={name}]").evaluate(write, value))


def test_saved_paint(shown, material):
    mask = material[2]
    page, panel = shown(PaintPanel(mask, truncation=6.0))
    distance = signed_distance(mask, 6.0)
    np.testing.assert_array_equal(pixels(panel, "distance"), coloured(distance, drawing.DISTANCE, -6, 6))
    slide(page, panel, "threshold", 2.0)
    np.testing.assert_array_equal(pixels(panel, "thresholded"), masked(distance <= 2))
    settled(page, panel, lambda: panel.locator("button:has-text('Clear')").click())
    np.testing.assert_array_equal(
        pixels(panel, "distance"), coloured(np.full(mask.shape, 6.0), drawing.DISTANCE, -6, 6)
    )


@pytest.mark.parametrize("kind", ["empty", "full", "one pixel", "border", "noise", "line"])
@pytest.mark.parametrize("boundary", ["inner", "half_pixel"])
def test_the_browsers_distance_is_pythons(shown, kind, boundary):
    "The degenerate cases, on a picture that is not square."
    mask = np.zeros((37, 53), bool)
    if kind == "full":
        mask[:] = True
    elif kind == "one pixel":
        mask[5, 50] = True
    elif kind == "border":
        mask[:, :9] = mask[30:, 20:] = True
    elif kind == "noise":
        mask = np.random.default_rng(0).random(mask.shape) < 0.4
    elif kind == "line":
        mask[10:12, 3:40] = True
    built = PaintPanel(mask, truncation=20.0)
    built.boundary.value = boundary
    _, panel = shown(built)
    wanted = signed_distance(mask, 20.0, boundary)
    np.testing.assert_array_equal(pixels(panel, "distance"), coloured(wanted, drawing.DISTANCE, -20, 20))
    np.testing.assert_array_equal(pixels(panel, "thresholded"), masked(wanted <= 0))


def test_saved_corruption(shown):
    labels = tissue(5, (64, 64)).rate(np.random.default_rng(0))
    built = CorruptionPanel(labels)
    built.time.value, built.schedule.value = 0.5, "VP"
    page, panel = shown(built)
    for time in (0.5, 0.0, 1.0):
        if time != 0.5:
            slide(page, panel, "time", time)
        for view, wanted in expected_corruption(labels, VP(), time).items():
            np.testing.assert_array_equal(pixels(panel, view), wanted, err_msg=f"{view} at {time}")
    page.locator("[name=playing]").click()
    page.wait_for_function(
        "() => 0 < +document.querySelector('[name=time]').value && +document.querySelector('[name=time]').value < 1"
    )
    page.locator("[name=playing]").click()
    assert page.locator("[name=playing]").inner_text() == "play", "it played, from the start again, and stopped"


def test_saved_reverse(shown, material):
    model, image = material[:2]
    built = ReversePanel(model, image, ("draft", "default", method_with("heun", 7)), members=2)
    run = reverse_run(model, image, "draft", members=2)
    built.progress.value = 1.0
    page, panel = shown(built)
    threshold = model.threshold("half_pixel") * model.data_scale / model.truncation
    for member in range(2):
        wanted = codes(run.denoised[-1, member], threshold, model.data_scale)
        assert np.array_equal(wanted < 128, run.denoised[-1, member] <= np.float32(threshold))
        np.testing.assert_array_equal(pixels(panel, f"denoised-{member}"), colours(drawing.DISTANCE)[wanted])
    assert "finished" in says(panel) and "after 5 of 5 network calls" in says(panel)
    settled(page, panel, lambda: page.locator("[name=method]").select_option(label="heun with 7 calls"))
    assert "heun with 7 calls: not computed before this page was saved. Here are: draft with 5 calls." == says(panel)


def test_saved_live(shown, material):
    "The last members are there, the threshold moves, and for new members the page says what it needs."
    built = LivePanel(Model(one_call_network(3)), material[1], seed=2)
    built.shown.value, built.strength.value = "masks", 0.5
    built.canvas.spots = [[20, 30, 6, 0]]
    page, panel = shown(built)
    assert "8 members of seed 2, strength 0.50, 1 spot painted: they disagree on" in says(panel)
    image = (np.moveaxis(built.live.image, 0, -1) * 255).round()
    np.testing.assert_array_equal(pixels(panel, "image"), image)
    for threshold in (0.5, 1.25, -0.75):
        if threshold != 0.5:
            slide(page, panel, "threshold", threshold)
        for k in range(8):
            np.testing.assert_array_equal(pixels(panel, f"member-{k}"), masked(built.distance[k] <= threshold))
    before = pixels(panel, "member-0")
    slide(page, panel, "seed", 7)
    assert says(panel) == (
        "Shown are the last members drawn before this page was saved: seed 2, strength 0.50, 1 spot painted. "
        "New members need a running kernel."
    )
    np.testing.assert_array_equal(pixels(panel, "member-0"), before)
    slide(page, panel, "seed", 2)
    assert says(panel).startswith("8 members of seed 2")
    page.set_viewport_size({"width": 500, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off on a narrow page"


@pytest.mark.parametrize("with_truth", [True, False])
def test_saved_ensemble(shown, material, with_truth):
    dataset, truth = material[3], material[2]
    page, panel = shown(EnsemblePanel(dataset if with_truth else dataset.drop_vars("truth")))
    slide(page, panel, "margin", 2.0)
    threshold = dataset.attrs["threshold_px"]
    mask, inside = dataset["mean"].values <= threshold, (_rounded(dataset["distance"].values) <= threshold).mean(0)
    caught, extra = margin_trade_off(mask, truth if with_truth else inside, 2.0)
    what = "the true object" if with_truth else "the expected object (the sum of P(object))"
    assert f"covers {100 * caught:.1f} % of {what}; outside the object it covers another {100 * extra:.1f} %" in says(
        panel
    )
    assert grown(mask, 2.0).sum() > mask.sum()
    np.testing.assert_array_equal(
        pixels(panel, "overlay"), coloured(inside.astype(np.float32), drawing.PROBABILITY, 0, 1)
    )
    page.set_viewport_size({"width": 700, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off on a narrow page"


def place(page, view: str) -> dict:
    "Where a picture stands on the page, however much of it is shown."
    return page.locator(f"canvas[data-view='{view}']").bounding_box()


def test_an_image_is_enlarged_where_the_pointer_is_and_moved(shown, material):
    dataset = material[3]
    rows, columns = dataset["mean"].shape
    page, panel = shown(EnsemblePanel(dataset))
    whole = place(page, "image")
    x, y = whole["x"] + 0.75 * whole["width"], whole["y"] + 0.25 * whole["height"]
    settled(page, panel, lambda: page.mouse.dblclick(x, y))
    twice = place(page, "image")
    assert twice["width"] == pytest.approx(2 * whole["width"])
    assert (x - twice["x"]) / twice["width"] == pytest.approx(0.75, abs=1e-3), "the place under the pointer stays"
    settled(page, panel, lambda: page.mouse.wheel(0, -240))
    assert place(page, "image")["width"] == pytest.approx(4 * whole["width"])
    page.mouse.down()
    settled(page, panel, lambda: page.mouse.move(x - 60, y + 30))
    page.mouse.up()
    moved = place(page, "image")
    assert (x - 60 - moved["x"]) / moved["width"] == pytest.approx(0.75, abs=1e-3), "what is dragged goes along"
    at = int((y - moved["y"]) / moved["height"] * rows), int((x - moved["x"]) / moved["width"] * columns)
    settled(page, panel, lambda: page.mouse.click(x, y))
    assert f"pixel ({at[0]},{at[1]})" in panel.locator("figcaption").nth(1).inner_text()
    panel.focus()
    settled(page, panel, lambda: page.keyboard.press("0"))
    assert place(page, "image") == pytest.approx(whole)
    settled(page, panel, lambda: page.keyboard.press("+"))
    assert place(page, "image")["width"] == pytest.approx(1.5 * whole["width"])


def test_the_three_pictures_of_the_error_show_the_same_part(shown, material):
    page, panel = shown(ErrorPanel(material[3]))
    box = place(page, "truth")
    settled(page, panel, lambda: page.mouse.dblclick(box["x"] + 20, box["y"] + 30))
    left, middle = place(page, "truth"), place(page, "error")
    assert left["width"] == middle["width"] == pytest.approx(2 * box["width"])
    assert middle["y"] == pytest.approx(left["y"])


def test_objects_are_shown_with_the_numbers_of_the_files(shown, material):
    dataset = material[3]
    labels, facts = objects_of(dataset)
    exists = np.concatenate([[0], facts["exists"].values]).astype(np.float32)
    built = EnsemblePanel(dataset)
    built.shown.value = "objects"
    page, panel = shown(built)
    assert f"{facts.sizes['object']}, of which {int((exists[1:] < 0.8).sum())} doubtful" in panel.inner_text()
    np.testing.assert_array_equal(
        pixels(panel, "overlay"), coloured(exists[labels], drawing.PROBABILITY, 0, 1), err_msg="P(exists)"
    )
    largest = int(facts["area"].values.argmax())
    row, column = (int(facts[name][largest]) for name in ("row", "column"))
    assert labels[row, column] == largest + 1
    box = place(page, "image")
    x = box["x"] + (column + 0.5) / labels.shape[1] * box["width"]
    settled(page, panel, lambda: page.mouse.click(x, box["y"] + (row + 0.5) / labels.shape[0] * box["height"]))
    assert says(panel).startswith(f"Object {largest + 1}: P(exists) {float(exists[largest + 1]):.3g}, area ")
    assert f"area {float(facts['area'][largest]):.3g} px²" in says(panel)


def test_the_objects_of_a_part_have_their_own_areas(material):
    part = material[3].isel(row=slice(0, 40), column=slice(8, 64))
    arrays, words = _objects(part)
    areas = arrays["facts"][:, words["columns"].index("area")]
    assert arrays["labels"].shape == (40, 56)
    np.testing.assert_array_equal(areas, np.bincount(arrays["labels"].ravel(), minlength=len(areas) + 1)[1:])


def test_saved_error(shown, material):
    dataset, truth = material[3], material[2]
    page, panel = shown(ErrorPanel(dataset))
    for keep in (0.8, 0.35):
        slide(page, panel, "keep", keep)
        field = next(iter(_shown_maps(dataset).values()))[0]
        wrong = (dataset["mean"].values <= dataset.attrs["threshold_px"]) != truth
        remains = retained_error(wrong, field, np.array([keep]))[0]
        assert f"Kept the most certain {100 * keep:.0f} %: {100 * remains:.2f} % of them" in says(panel)


def test_saved_stack(shown):
    frames = np.random.default_rng(0).normal(size=(5, 20, 30))
    page, panel = shown(StackPanel(frames, drawing.NOISE, labels=["a", "b", "c", "d", "e"], end=2.0))
    for frame in (3, 4, 0):
        slide(page, panel, "frame", frame)
        np.testing.assert_array_equal(pixels(panel, "frame"), coloured(frames[frame], drawing.NOISE, -2, 2))
        assert says(panel) == "abcde"[frame]
    panel.focus()
    settled(page, panel, lambda: page.keyboard.press("ArrowRight"))
    assert says(panel) == "b"


WRONG = {
    "missing": (lambda d: EnsemblePanel(d.drop_vars("std")), "has no std"),
    "no truth": (lambda d: ErrorPanel(d.drop_vars("truth")), "truth=mask"),
    "one member": (lambda d: EnsemblePanel(d.isel(member=[0])), "needs at least 2"),
    "nan": (lambda d: ErrorPanel(d.assign(mean=d["mean"].where(d["mean"] > 0))), "NaN"),
    "large": (lambda d: EnsemblePanel(d.pad(row=(0, 1936), column=(0, 1936), mode="edge")), "2000 × 2000"),
    "mask": (lambda d: PaintPanel(np.zeros((2, 3, 4), bool)), "shape (2, 3, 4)"),
    "no object": (lambda d: CorruptionPanel(np.zeros((64, 64), bool)), "0 object pixels"),
    "attributes": (lambda d: EnsemblePanel(d.assign_attrs(title="mine").drop_attrs()), "threshold_px"),
    "dimensions": (lambda d: EnsemblePanel(d.transpose("row", ...)), "(member, row, column)"),
    "empty mask": (lambda d: PaintPanel(np.zeros((0, 5))), "shape (0, 5)"),
    "truncation": (lambda d: PaintPanel(truncation=None), "truncation is None"),
    "one frame": (lambda d: CorruptionPanel(frames=1), "two frames"),
    "no masks": (lambda d: CorruptionPanel({}), "0 masks"),
    "no methods": (lambda d: ReversePanel(methods=()), "0 methods have 0 names"),
    "same name": (lambda d: ReversePanel(methods=("draft", "draft")), "2 methods have 1 names"),
    "unknown method": (lambda d: ReversePanel(methods=("fastest",)), "No method 'fastest'"),
    "endless": (lambda d: ReversePanel(methods=(untuned("dpm", 9999),), members=6), "too long for a panel"),
    "too many members": (lambda d: ReversePanel(members=7), "7 members"),
    "no generator": (lambda d: LivePanel(Model(random_network(3))), "no one-call generator"),
    "large for live": (lambda d: LivePanel(Model(one_call_network(3)), np.zeros((3, 300, 64))), "up to 256 × 256"),
    "other channels": (lambda d: LivePanel(Model(one_call_network(3)), np.zeros((1, 64, 64))), "takes (batch, 3, row"),
    "bytes": (lambda d: ReversePanel(image=np.full((3, 64, 64), 200.0)), "200"),
    "array": (lambda d: EnsemblePanel(d["mean"]), "DataArray"),
    "channels last": (
        lambda d: EnsemblePanel(d.transpose("member", "row", "column", "channel", ...)),
        "(channel, row, column)",
    ),
    "truth NaN": (lambda d: EnsemblePanel(d.assign(truth=d["truth"].where(d["truth"]))), "`truth` holds"),
    "no probability": (lambda d: ErrorPanel(d.drop_vars("probability")), "no probability"),
    "no frames": (lambda d: StackPanel(np.zeros((2, 0, 3))), "(2, 0, 3)"),
    "categories": (lambda d: StackPanel(np.zeros((2, 3, 3)), drawing.MASK), "Categories"),
    "frames": (lambda d: StackPanel(np.zeros((4, 4))), "(4, 4)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_said_in_the_panel(shown, material, case):
    "One sentence, in the panel and for Python, instead of an empty box."
    make, expected = WRONG[case]
    built = make(material[3])
    assert expected in built.message and "\n" not in built.message and built.message.rstrip().endswith((".", "?"))
    _, panel = shown(built)
    assert panel.locator("[role=alert]").inner_text() == built.message
    assert panel.locator("[role=alert]").bounding_box()["height"] > 10


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    "Nobody sees the sentence in a panel that a script makes."
    with pytest.raises(FileNotFoundError, match="no such.nc does not exist"):
        EnsemblePanel("no such.nc")
    with pytest.raises(FileNotFoundError, match='No weights "no such weights"'):
        ReversePanel("no such weights")
    (tmp_path / "text.nc").write_text("no dataset")
    with pytest.raises(ValueError, match="text.nc is no netCDF file that can be read"):
        ErrorPanel(tmp_path / "text.nc")


def test_a_page_is_not_replaced_without_force(tmp_path, material):
    panel, page = PaintPanel(material[2]), tmp_path / "page.html"
    page.write_text("mine")
    with pytest.raises(FileExistsError, match="page.html exists: pass force=True to replace it"):
        panel.save(page)
    assert page.read_text() == "mine"
    assert "Paint" in panel.save(page, force=True).read_text(encoding="utf8")


def test_a_page_is_whole_or_not_there(tmp_path, material, monkeypatch):
    panel = PaintPanel(material[2])
    monkeypatch.setattr(
        Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        panel.save(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


# ---- the lines above the pictures


def inked(panel, view: str, points) -> np.ndarray:
    "Whether a line runs through each point (row, column), in data pixels from the upper left corner of the picture."
    read = """(c, points) => points.map(([r, k]) => c.getContext('2d').getImageData(
        Math.round(k * c.width / c.dataset.columns), Math.round(r * c.height / c.dataset.rows), 1, 1).data[3] > 0)"""
    lines = panel.locator(f".stack:has(canvas[data-view='{view}']) canvas.lines")
    lines.evaluate(
        "c => { const of = c.parentElement.querySelector('canvas'); "
        "c.dataset.columns = of.width; c.dataset.rows = of.height; }"
    )
    return np.array(lines.evaluate(read, np.asarray(points, float).tolist()))


def check_outline(panel, view: str, *masks, skip=(None, None)) -> None:
    "Lines run between all pixels of which one lies in a mask and the other does not, and nowhere else."
    for axis in (0, 1):
        wanted = sum(np.diff(mask.astype(int), axis=axis) != 0 for mask in masks) > 0
        places = np.argwhere(wanted | True)
        places = places[(places[:, 0] != skip[0]) & (places[:, 1] != skip[1])]
        found = inked(panel, view, places + (np.array([1, 0.5]) if axis == 0 else np.array([0.5, 1])))
        np.testing.assert_array_equal(found, wanted[tuple(places.T)], err_msg=f"{view}, axis {axis}")


def test_outlines_lie_between_the_pixels(shown, material):
    model, image, truth, dataset = material
    page, panel = shown(ErrorPanel(dataset))
    mask = dataset["mean"].values <= dataset.attrs["threshold_px"]
    check_outline(panel, "truth", mask, skip=ErrorPanel(dataset).pixel)
    built = EnsemblePanel(dataset)
    page, panel = shown(built)
    slide(page, panel, "margin", 2.0)
    check_outline(panel, "image", mask, grown(mask, 2.0), skip=built.pixel)
    built = ReversePanel(model, image, ("draft",), members=1)
    built.progress.value = 1.0
    _, panel = shown(built)
    run = reverse_run(model, image, "draft", members=1)
    level = np.float32(model.threshold("half_pixel") * model.data_scale / model.truncation)
    check_outline(panel, "denoised-0", run.denoised[-1, 0] <= level)


@pytest.mark.parametrize("boundary, edge", [("half_pixel", 20.0), ("inner", 19.5)])
def test_zero_line_lies_where_the_distance_is_zero(shown, boundary, edge):
    mask = np.zeros((30, 40), bool)
    mask[:, :20] = True
    built = PaintPanel(mask)
    built.boundary.value = boundary
    _, panel = shown(built)
    rows = np.arange(2, 28) + 0.25
    for column, there in ((edge, True), (edge - 0.4, False), (edge + 0.4, False)):
        assert (inked(panel, "distance", [(r, column) for r in rows]) == there).all()


def test_labels_cannot_break_a_page(shown):
    labels = ["<!--<script>", "</script><b>x"]
    page, panel = shown(StackPanel(np.random.default_rng(0).normal(size=(2, 8, 8)), labels=labels))
    assert says(panel) == labels[0]
    slide(page, panel, "frame", 1)
    assert says(panel) == labels[1]


def test_truth_may_hold_instances(shown, material):
    dataset = material[3]
    labelled = dataset.assign(truth=dataset["truth"].astype(np.int64) * 7)
    for kind in (EnsemblePanel, ErrorPanel):
        text = says(shown(kind(dataset))[1])
        assert says(shown(kind(labelled))[1]) == text and "%" in text


def test_nothing_to_cover_is_said(shown, material):
    _, panel = shown(EnsemblePanel(material[3].assign(truth=material[3]["truth"] & False)))
    assert says(panel) == "There is nothing to cover: the truth holds no object."


def test_play_starts_while_the_run_is_not_there_yet(shown, material):
    "Play moves nothing before there is something to play."
    built = ReversePanel(material[0], material[1], ("draft", "default"), members=1)
    page, panel = shown(built)
    settled(page, panel, lambda: page.locator("[name=method]").select_option("1"))
    page.locator("[name=playing]").click()
    page.wait_for_timeout(700)
    assert page.locator("[name=progress]").input_value() == "0.5"
    page.locator("[name=method]").select_option("0")
    page.wait_for_function("document.querySelector('[name=progress]').value !== '0.5'")


def bars(panel, view: str) -> list[float]:
    "Heights of a histogram's bars, on the scale of its axis."
    heights = [float(bar.get_attribute("height")) for bar in panel.locator(f"[data-view={view}] .bars").all()]
    return [height / 142 for height in heights]


def test_the_histogram_counts_members(shown, material):
    dataset = material[3]
    built = EnsemblePanel(dataset)
    _, panel = shown(built)
    end, here = dataset.attrs["truncation_px"], _rounded(dataset["distance"].values[:, *built.pixel])
    counts = np.histogram(here, np.linspace(-end, end, 25))[0]
    assert bars(panel, "histogram") == pytest.approx(counts[counts > 0] / len(here), abs=0.01)


def test_curves_and_marks_lie_where_the_numbers_say(shown):
    labels = tissue(5, (64, 64)).rate(np.random.default_rng(0))
    built = CorruptionPanel(labels)
    built.time.value = 0.75
    _, panel = shown(built)
    one = built.canvas.data["damage"]
    damage = np.frombuffer(one["bytes"], np.float32).reshape(one["shape"])[0, 0, 1]
    frame = panel.locator("[data-view=displacement] .frame")
    left, top, width, height = (float(frame.get_attribute(name)) for name in ("x", "y", "width", "height"))
    highest = np.nanmax(damage).clip(1)
    for line, values in zip(panel.locator("[data-view=displacement] svg").first.locator(".line").all(), damage):
        points = [[float(v) for v in pair.split()] for pair in line.get_attribute("d").replace("M", "L").split("L")[1:]]
        there = np.isfinite(values)
        wanted = np.stack(
            [left + np.linspace(0, 1, 65)[there] * width, top + height * (1 - values[there] / highest)], 1
        )
        np.testing.assert_allclose(points, wanted, atol=0.11)
    mark = panel.locator("[data-view=displacement] .mark").first.get_attribute("d")
    assert float(mark[1:].split()[0]) == pytest.approx(left + 0.75 * width, abs=0.1)
