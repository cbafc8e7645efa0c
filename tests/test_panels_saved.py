"Saved panels, opened from disk in a browser without a network, and compared pixel by pixel with Python."

from pathlib import Path

import browser
import numpy as np
import pytest
from pictures import coloured, expected_corruption, masked, pixels, says, settled
from sdfdiff import drawing
from sdfdiff.corruption import VP
from sdfdiff.distance import signed_distance
from sdfdiff.ensembles import Sampling, ensemble
from sdfdiff.network import load_weights
from sdfdiff.pages import StackPanel, codes, colours
from sdfdiff.tissue import tissue
from sdfdiff.views import grown, margin_trade, retained_error, reverse_run, uncertainty_maps
from sdfdiff.widgets import CorruptionPanel, EnsemblePanel, ErrorPanel, PaintPanel, ReversePanel


@pytest.fixture(scope="module")
def material():
    "A scene of 64x64 with an ensemble of 6 members and a rater's mask."
    scene, model = tissue(3, (64, 64)), load_weights("tissue")
    image, truth = np.moveaxis(scene.image, -1, 0), scene.rate(np.random.default_rng(1)) > 0
    return model, image, truth, ensemble(model, image, 6, Sampling(steps=4), truth=truth, progress=False)


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
        path = panel.save(tmp_path / "panel.html")
        tab.goto(path.as_uri())
        tab.wait_for_selector("body[data-ready]")
        tab.wait_for_timeout(200)
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
    page.wait_for_timeout(700)
    page.locator("[name=playing]").click()
    assert 0 < float(page.locator("[name=time]").input_value()) < 1, "it played, from the start again"


def test_saved_reverse(shown, material):
    model, image = material[:2]
    built = ReversePanel(model, image, ("dpm_sde", "heun"), (5, 7), members=2)
    run = reverse_run(model, image, Sampling(steps=4), 2)
    built.progress.value = 1.0
    page, panel = shown(built)
    threshold = model.threshold("half_pixel") * model.data_scale / model.truncation
    for member in range(2):
        wanted = codes(run.denoised[-1, member], threshold, model.data_scale)
        assert np.array_equal(wanted < 128, run.denoised[-1, member] <= np.float32(threshold))
        np.testing.assert_array_equal(pixels(panel, f"denoised-{member}"), colours(drawing.DISTANCE)[wanted])
    assert "finished" in says(panel) and "after 5 of 5 network calls" in says(panel)
    settled(page, panel, lambda: page.locator("[name=sampler]").select_option("1"))
    assert "heun 5 calls: not computed before this page was saved. Here are: dpm_sde 5." == says(panel)


@pytest.mark.parametrize("with_truth", [True, False])
def test_saved_ensemble(shown, material, with_truth):
    dataset, truth = material[3], material[2]
    page, panel = shown(EnsemblePanel(dataset if with_truth else dataset.drop_vars("truth")))
    slide(page, panel, "margin", 2.0)
    threshold = dataset.attrs["threshold_px"]
    mask, inside = dataset["mean"].values <= threshold, (dataset["distance"].values <= threshold).mean(0)
    caught, extra = margin_trade(mask, truth if with_truth else inside, 2.0)
    what = "the true object" if with_truth else "the expected object (the sum of P(object))"
    assert f"covers {100 * caught:.1f} % of {what}; outside the object it covers another {100 * extra:.1f} %" in says(panel)
    assert grown(mask, 2.0).sum() > mask.sum()
    np.testing.assert_array_equal(
        pixels(panel, "overlay"), coloured(inside.astype(np.float32), drawing.PROBABILITY, 0, 1)
    )
    page.set_viewport_size({"width": 700, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off on a narrow page"


def test_saved_error(shown, material):
    dataset, truth = material[3], material[2]
    page, panel = shown(ErrorPanel(dataset))
    for keep in (0.8, 0.35):
        slide(page, panel, "keep", keep)
        field = next(iter(uncertainty_maps(dataset).values()))[0]
        wrong = (dataset["mean"].values <= dataset.attrs["threshold_px"]) != truth
        remains = retained_error(wrong, field, np.array([keep]))[0]
        assert f"Kept the most certain {100 * keep:.0f} %: {100 * remains:.2f} % of them" in says(panel)


def test_saved_stack(shown):
    frames = np.random.default_rng(0).normal(size=(5, 20, 30))
    page, panel = shown(StackPanel(frames, drawing.NOISE, labels=["a", "b", "c", "d", "e"], limit=2.0))
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
    "weights": (lambda d: ReversePanel("no such weights"), "no such weights"),
    "file": (lambda d: EnsemblePanel("no such.nc"), "no such.nc"),
    "attributes": (lambda d: EnsemblePanel(d.assign_attrs(title="mine").drop_attrs()), "threshold_px"),
    "dimensions": (lambda d: EnsemblePanel(d.transpose("row", ...)), "(member, row, column)"),
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


def test_a_page_is_whole_or_not_there(tmp_path, material, monkeypatch):
    panel = PaintPanel(material[2])
    monkeypatch.setattr(
        Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        panel.save(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
