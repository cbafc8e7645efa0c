"The report: its numbers are those of the summary, nothing in it needs a network, and what is not defined is said."

import base64
import datetime
import html
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text
from small_studies import case_of, drawn_from, study_of

from sdfdiff.drawing import draw_image, panels, png
from sdfdiff.ensembles.method import method_of
from sdfdiff.files import write_dataset
from sdfdiff.study import charts, report
from sdfdiff.study.chart_parts import interval
from sdfdiff.study.charts import CHARTS, sparsification_chart
from sdfdiff.study.plan import StudyPlan
from sdfdiff.study.page import WORDS
from sdfdiff.study.report import report_page, write_report
from sdfdiff.study.store import export_study, finish, open_study, run_study
from sdfdiff.study.verification import differences, headline, read_verified, verify
from sdfdiff.uncertainty.fields import bootstrap


def made(folder, methods=2, cases=3, **more):
    plan = StudyPlan(
        "tissue",
        tuple(
            method_of("draft", name=name, weights="tissue", members=4, seed=k)
            for k, name in enumerate(("first", "second")[:methods])
        ),
        cases=cases,
        **more,
    )
    finish(run_study(plan, folder / "t.zarr"), progress=False)
    return folder / "t.zarr"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return made(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def verified(store):
    return verify(open_study(store), permutations=5, progress=False)


@pytest.fixture(scope="module")
def text(verified):
    return report_page(verified, resamples=20)


@pytest.fixture
def undrawn(monkeypatch):
    "No chart is drawn: for tests of words that stand beside them."
    monkeypatch.setattr("sdfdiff.study.report.CHARTS", ())


class Page(HTMLParser):
    "Tables, headings, pictures and open elements of a page."

    EMPTY = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.pictures, self.links, self.text = [], [], [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [value for name, value in attributes.items() if name in ("src", "href", "srcset", "action")]
        if tag == "img":
            self.pictures.append(attributes)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        here = self.open[-1] if self.open else ""
        self.text.setdefault(here, []).append(data)
        if here in ("td", "th"):
            self.rows[-1][-1] += data.replace("\xa0", " ")


def row(page, start):
    return next(one for one in page.rows if one and one[0] == start)


def test_numbers_are_those_of_the_summary(verified, text):
    "Every quantity has a row with its unit and, for each method, estimate and interval as headline gives them."
    numbers, page = headline(verified, 20), Page(text)
    for name in numbers["quantity"].values:
        words, unit, times, digits, better = WORDS[name]
        found = row(page, words)
        assert found[1:3] == [unit, better]
        for text, bounds in zip(found[3:], numbers.sel(quantity=name).values, strict=True):
            shown = [float(one) for one in re.findall(r"-?\d+\.\d+", text)]
            assert shown == pytest.approx([round(times * one, digits) for one in bounds], abs=1.1 * 10.0**-digits), name
    assert row(page, "quantity")[3:] == ["first", "second"]


def test_page_needs_nothing_else(verified, store, text):
    "No address, no script; every picture is inside and has words; elements are closed; charts are SVG that parses."
    again, text = text, report_page(verified, open_study(store), resamples=20)
    page = Page(text)
    assert not page.open and "http" not in text and "<script" not in text and "@import" not in text
    assert (
        all(link.startswith("data:image/") for link in page.links)
        and len(page.links) == len(page.pictures) == len(CHARTS) + 1
    )
    assert all(len(one["alt"]) > 20 for one in page.pictures)
    kinds = [one["src"].split(";")[0] for one in page.pictures]
    assert kinds == ["data:image/svg+xml"] * len(CHARTS) + ["data:image/png"]
    for one in page.pictures[:-1]:
        assert ElementTree.fromstring(base64.b64decode(one["src"].split(",")[1])).tag.endswith("svg")
    charts = re.findall('data:image/svg[^"]*', text)
    assert len(text) < 1e6 and charts == re.findall('data:image/svg[^"]*', again), "the same numbers, the same page"


def test_what_was_done_is_told(verified, text):
    page = Page(text)
    assert (
        row(page, "weights")[1:] == ["tissue", "tissue"]
        and row(page, "seed")[1:] == ["0", "1"]
        and row(page, "members")[1:] == ["4", "4"]
    )
    assert (
        row(page, "SHA-256 of the weights")[1] == verified["weights_checksum"].values[0]
        and len(row(page, "SHA-256 of the weights")[1]) == 64
    )
    assert row(page, "threshold (px)")[1:] == ["0.5", "0.5"] and "3 images" in row(page, "data")[1]
    assert row(page, "made with")[1].startswith(f"sdfdiff {verified.attrs['sdfdiff_version']}, torch ")


def test_every_image_has_its_row(verified, text):
    page = Page(text)
    for k, case in enumerate(verified["case"].values):
        rows = [one for one in page.rows if one and one[0] == case]
        assert len(rows) == 2
        for j, found in enumerate(rows):
            one = verified.isel(case=k, method=j)
            expected = [
                100 * one["f1"].sel(estimator="mmse"),
                100 * one["f1"].sel(estimator="member"),
                one["expected_loss"],
                100 * one["wrong"],
                one["auroc"].sel(map="ratio"),
                one["crps"],
            ]
            assert [float(x) for x in found[2:8]] == pytest.approx([float(x) for x in expected], abs=0.06)
            assert f"{int(one['objects_missed_objects'])} / {int(one['objects_true_objects'])}" in found


def test_findings_follow_the_numbers(verified):
    "Titles are computed: other numbers, another title."
    numbers = headline(verified, 20)
    before = [draw(verified, numbers).finding for draw in CHARTS]
    other = verified.copy(deep=True)
    other["expected_loss"] = other["expected_loss"] * 0 + 0.123
    other["objects_false_objects"][:] = 0
    changed = numbers.copy(deep=True)
    changed.loc[{"quantity": "auroc_gain"}] = [[-0.2, -0.3, -0.1]] * 2
    changed.loc[{"quantity": "spread_skill"}] = [[1.5, 1.2, 1.8]] * 2
    changed.loc[{"quantity": "ece_recalibrated"}] = [[0.777, 0.7, 0.8]] * 2
    after = " | ".join(draw(other, changed).finding for draw in CHARTS)
    for words in (
        "worse than the nearness",
        "the ensemble is too wide",
        "0.777 after",
        "expects to lose 0.123",
        "0 of ",
    ):
        assert words in after and words not in " | ".join(before)


def test_sparsification_chart_draws_means_and_the_best_order(verified):
    "The dotted line takes the wrong pixels away first: counted pixel by pixel, image by image."
    chart = sparsification_chart(verified, headline(verified, 20))
    lines = {line.get_label(): np.array(line.get_data()) for line in chart.figure.axes[1].lines}
    share, drawn = lines["best possible order"]
    pixels = np.array([np.arange(4096) < round(4096 * one) for one in verified["wrong"].values[:, 1]])
    for x, y in zip(share[[0, 1, 3, 10]] / 100, drawn[[0, 1, 3, 10]]):
        assert y == pytest.approx(100 * np.mean([one[round(4096 * x) :].mean() for one in pixels]), abs=0.02)
    assert lines[charts._MAP_WORDS["ratio"]][1] == pytest.approx(
        100 * verified["sparsification"].sel(map="ratio").isel(method=1).mean("case").values[: len(share)]
    )


def test_object_shares_are_sums(verified):
    "Objects are added up over the images; the mean of the shares would be something else."
    missed = charts._object_shares(verified)[list(charts._OBJECTS).index("missed")]
    for k in range(2):
        one = verified.isel(method=k)
        assert missed[k, 0] == pytest.approx(
            int(one["objects_missed_objects"].sum()) / int(one["objects_true_objects"].sum())
        )


@pytest.mark.parametrize("draw", CHARTS, ids=lambda draw: draw.__name__)
def test_charts_draw_on_the_axes_they_are_given(verified, draw):
    "The same lines as in a figure of their own, on the caller's axes; the caller's titles stay."
    numbers = headline(verified, 20)
    own = draw(verified, numbers)
    figure, axes = panels(len(own.figure.axes))
    for one in axes:
        one.set_title("mine")
    shared = draw(verified, numbers, axes)
    assert shared.figure is figure and [one.get_title() for one in axes] == ["mine"] * len(axes)
    assert (shared.finding, shared.reading, shared.alternative) == (own.finding, own.reading, own.alternative)
    for here, there in zip(axes, own.figure.axes, strict=True):
        assert len(here.lines) == len(there.lines) and here.get_xlabel() == there.get_xlabel() != ""
        for line, twin in zip(here.lines, there.lines):
            np.testing.assert_array_equal(line.get_data(), twin.get_data())
    with pytest.raises(ValueError, match=f"3 axes for {len(axes)} panels"):
        draw(verified, numbers, panels(3)[1])


def test_charts_of_some_maps(verified):
    "Only those that are asked for and are there, in this order."
    numbers = headline(verified, 20)
    (axes,) = charts.detection_chart(verified, numbers, maps=("sdf_std", "unheard of", "ratio")).figure.axes
    words = [charts._MAP_WORDS[name] for name in ("sdf_std", "ratio")]
    assert [label.get_text() for label in axes.get_yticklabels()] == words
    first = sparsification_chart(verified, numbers, maps=("sdf_std",)).figure.axes[0]
    assert [line.get_label() for line in first.lines] == [words[0], "best possible order"]


def test_what_is_not_defined_is_said(verified, text):
    "A mean over fewer images says over how many; a missing object is no missed object."
    holes = verified.copy(deep=True)
    holes["auroc"][0, :, 0] = np.nan
    holes["missed"][1] = np.nan
    holes["needed_margin"][1] = np.nan
    holes["fragments_truth"] = ("case", [3, 0, 2])
    assert report._defined(holes, "auroc_ratio").tolist() == [2, 3]
    assert report._defined(holes, "f1_mmse").tolist() == [3, 3]
    page = Page(report_page(holes, resamples=20))
    assert (
        "[2 of 3 images]" in row(page, WORDS["auroc_ratio"][0])[3] and "[" not in row(page, WORDS["auroc_ratio"][0])[4]
    )
    said = " ".join(page.text["li"])
    assert (
        "defined in 2, 3 of 3 images (first, second)" in said
        and "1 image without any object" in said
        and "Every headline number is defined" not in said
    )
    assert [one for one in page.rows if one and one[0] == holes["case"].values[1]][0].count("not defined") == 1
    assert "the 2 of 3 images that have an object" in " ".join(page.text["figcaption"])
    assert "Every headline number is defined" in text


def test_unknown_quantities_are_shown(verified, monkeypatch, undrawn):
    "A quantity without words appears under its own name."
    monkeypatch.delitem(WORDS, "crps")
    assert len(row(Page(report_page(verified, resamples=20)), "crps")) == 5


def test_one_patient_has_no_interval(verified):
    page = report_page(verified.assign_coords(group=("case", ["same"] * 3)), resamples=20)
    assert (
        "There is no summary and no interval" in page and "<figure" not in page and verified["case"].values[2] in page
    )
    assert "3 images of 1 patient" in page and "3 images of 1 patients" not in page
    assert "at least two patients" in page and "intervals say" not in page and "the intervals are" not in page


def test_one_chart_takes_nothing_with_it(verified, monkeypatch):
    "A chart that cannot be drawn is named; the numbers and the other charts stay."

    def loss_chart(verified, numbers):
        raise ValueError("nothing <to> draw")

    monkeypatch.setattr("sdfdiff.study.report.CHARTS", (CHARTS[0], loss_chart, *CHARTS[2:]))
    text = report_page(verified, resamples=20)
    page = Page(text)
    assert "The loss chart cannot be drawn: nothing &lt;to&gt; draw" in text and not page.open
    assert len(page.pictures) == len(CHARTS) - 1 and row(page, WORDS["f1_mmse"][0])


def test_no_recalibration(verified):
    "One patient alone has the object: nothing can be learned of the others, and P is shown as drawn."
    lone = verified.copy(deep=True)
    lone["truths"][1:] = 0
    numbers = headline(lone, 20)
    chart = next(draw for draw in CHARTS if draw.__name__ == "reliability_chart")(lone, numbers)
    assert "no recalibration" in chart.finding and "nan" not in chart.finding
    assert [line.get_label() for line in chart.figure.axes[0].lines] == ["exact", "as drawn"]
    page = Page(report_page(lone, resamples=20))
    assert len(page.pictures) == len(CHARTS) and row(page, WORDS["ece_recalibrated"][0])[3].startswith("not defined")


def said(verified, study=None):
    return html.unescape(" ".join(Page(report_page(verified, study, resamples=20)).text["li"]))


def test_limits_are_true(verified, undrawn):
    "What is said of patients, raters, held-out images and pixels is what the numbers say."
    assert "3 images (patients not known)" in said(verified) and "square" not in said(verified)
    files = verified.drop_vars("posterior_gap")
    files.attrs = verified.attrs | {"dataset": "glas", "split": "validation"}
    names = verified["case"].values
    files = files.assign_coords(group=("case", ["a", "a", "b"]), held_out=("case", [True, False, True]))
    files = files.assign_coords(source_rows=files["rows"] * 4, source_columns=files["columns"] * 6)
    words = said(files)
    assert "3 images of 2 patients" in words and len(names) == 3
    assert "1 of 3 images is not named as held out by the weights' header" in words and "flatter" not in words
    assert "at least half of the raters" in words and "one truth per image." not in words
    assert "in 3 images these are not square in the source: one covers 4.00 rows and 6.00 columns" in words
    each = np.array([[True, False], [True, True], [False, False]])
    assert "2 of 3 images are not named" in said(files.assign_coords(held_out=(("case", "method"), each)))
    assert "measured against one truth per image." in said(files.drop_vars(["ged_u", "ged_v", "hungarian_iou"]))


def test_partial_is_said(verified, undrawn):
    "Under the title and among the limits; not where all is finished, and not of older files."
    half = verified.assign_attrs(cases_planned=9, cases_finished=3)
    text, words = report_page(half, resamples=20), "PARTIAL: 3 of 9 planned cases are finished"
    assert text.count(words) == 2 and text.index(words) < text.index("<h2>") and words in said(half)
    for whole in (verified.assign_attrs(cases_planned=3, cases_finished=3), verified.drop_attrs(deep=False)):
        assert "PARTIAL" not in report_page(whole.assign_attrs(plan=verified.attrs["plan"]), resamples=20)


def test_sparsification_falls_or_rises(verified):
    worse = verified.copy(deep=True)
    worse["sparsification"] = 0 * worse["sparsification"].fillna(0) + (1 + worse["removed"]) / 100
    assert "the error rises from 1.00 % to 1.10 %" in sparsification_chart(worse, headline(worse, 20)).finding


def test_one_method_two_cases_no_posterior_no_raters(tmp_path):
    "The least a study may be."
    study = open_study(made(tmp_path, 1, 2, images=False)).drop_vars(
        ["posterior", "raters", "ged_u", "ged_v", "hungarian_iou"]
    )
    verified = verify(study, permutations=5, progress=False)
    text = report_page(verified, study, "A <title> & more", resamples=20)
    page = Page(text)
    assert "<h1>A &lt;title&gt; &amp; more</h1>" in text and not page.open
    assert charts._MAP_WORDS["best"] not in html.unescape(text) and WORDS["ged_u"][0] not in text
    assert (
        "There is one rater per image" in text and "The true posterior is not known" in text and "All 2 images" in text
    )
    assert WORDS["loss_correlation"][0] not in text, "a correlation over two images says nothing"


NASTY = ["cost$_$", "a_b", "_first", "50 % {x}", r"C:\alpha$^2", "<b>&amp;\"'"]


def test_names_are_shown_as_they_are(verified):
    "No formula, and no legend without the method that begins with an underscore."
    odd = verified.isel(method=[0, 1] * 3).assign_coords(method=NASTY, case=["cost$_$", "b", "c"])
    numbers = headline(odd, 5)
    for draw in CHARTS:
        chart = draw(odd, numbers)
        chart.figure.canvas.draw()
        texts = [one for one in chart.figure.findobj(Text) if any(name in one.get_text() for name in NASTY)]
        assert sorted({one.get_text() for one in texts}) == sorted(NASTY), draw
        assert all(not one.get_parse_math() for one in texts) and NASTY[0] in chart.finding


def test_a_report_of_names_with_dollars_has_all_charts(verified, store):
    name, study = "cost$_$<i>", open_study(store).assign_coords(case=["cost$_$<i>", "b", "c"])
    odd = verified.assign_coords(method=[name, "second"], case=[name, "b", "c"])
    text = report_page(odd, study.assign_coords(method=[name, "second"]), resamples=20)
    page = Page(text)
    assert len(page.pictures) == len(CHARTS) + 1 and "cannot be drawn" not in text and not page.open
    assert row(page, "quantity")[3:] == [name, "second"] and row(page, name)


def test_titles_with_dollars(tmp_path):
    "What is no formula is shown as it is; what is one stays one."
    for title, formula in (("cost$_$", False), (r"$\sigma$ = 2", True), ("a $ b", False)):
        figure, axes = panels(1)
        draw_image(axes[0], np.zeros((4, 4)), title)
        assert axes[0].title.get_parse_math() is formula and axes[0].get_title() == title and png(figure)


def square(size=24):
    mask = np.zeros((size, size), bool)
    mask[6:16, 6:16] = True
    return mask


DEGENERATE = {  # name: (all members, truth)
    "perfect": (square(), square()),
    "nothing": (square() & False, square() & False),
    "everything": (square() | True, square() | True),
    "nothing found": (square() & False, square()),
    "all invented": (square() | True, square() & False),
}


@pytest.mark.parametrize("world", DEGENERATE)
def test_what_a_degenerate_study_cannot_say_is_said_with_why(world, monkeypatch):
    monkeypatch.setattr(report, "html_figure", lambda chart, maps=False: f"<p>{chart.finding}; {chart.alternative}</p>")
    members, truth = DEGENERATE[world]
    drawn = {name: drawn_from(np.stack([members] * 4)) for name in ("one", "two")}
    study = study_of([case_of(f"c{k}", drawn, truth) for k in range(2)])
    both = {"held_out": [True] * 2, "rows": [24] * 2, "columns": [24] * 2, "fragments_truth": [int(truth.any())] * 2}
    study = study.assign_coords({name: ("case", values) for name, values in both.items()})
    text = re.sub('base64,[^"]*', "", report_page(verify(study, 2, progress=False), study, resamples=5))
    assert not re.search(r"\b(nan|inf)\b", text) and "cannot be drawn" not in text
    for reason, worlds in {
        "AUROC of the ratio for wrong pixels is not defined (no pixel is wrong, or none is right)": (
            "perfect",
            "nothing",
            "everything",
            "all invented",
        ),
        "the rank of the truth is not defined (members and truth agree at every pixel)": (
            "perfect",
            "nothing",
            "everything",
        ),
        "the calibration error near the edges is not defined (no pixel is near an edge)": (
            "nothing",
            "everything",
            "nothing found",
            "all invented",
        ),
    }.items():
        assert (reason in text) == (world in worlds), reason
    assert ("spread over error is not defined (members" in text) == (world in ("perfect", "nothing", "everything"))
    assert "not defined: the ensemble is" not in text


def test_terms_are_defined_before_they_are_used(text):
    "Each once, and those that are abbreviations with what they stand for."
    defined, rest = text.split("<dl>")[1].split("</dl>")
    before = text.split("<body>")[1].split("<dl>")[0]
    terms = re.findall("<dt>(.*?)</dt>", defined)
    assert len(terms) == len(set(terms)) and "receiver operating" in defined and "ranked probability" in defined
    for term in ("F1", "AUROC", "IoU", "CRPS", "Brier score", "member", "expected loss", "spread", "initial estimate"):
        assert term in terms and term in rest and not re.search(rf"\b{term}\b", before)


def test_differences_are_paired(verified, undrawn):
    "Of means: those of the images' differences, resampled; of sums: what both methods' sums give, drawn together."
    numbers, found = headline(verified, 50), differences(verified, 50)
    assert found["method"].values.tolist() == ["second"] and set(found["quantity"].values) == (
        set(numbers["quantity"].values) - {"ece_recalibrated"}
    )
    for name in found["quantity"].values:
        both = numbers.sel(quantity=name).values[:, 0]
        assert found.sel(quantity=name).values[0, 0] == pytest.approx(both[1] - both[0], abs=1e-12), name
    gap = (verified["crps"][:, 1] - verified["crps"][:, 0]).values
    np.testing.assert_allclose(found.sel(quantity="crps").values[0], bootstrap(gap, resamples=50).values)
    same = differences(verified.isel(method=[0, 0]).assign_coords(method=["a", "b"]), 50)
    assert (same.fillna(0) == 0).all()
    page = Page(report_page(verified, resamples=50))
    tables = [k for k, one in enumerate(page.rows) if one[-1] == "second minus first"]
    assert len(tables) == 1
    shown = next(one for one in page.rows[tables[0] :] if one[0] == WORDS["crps"][0])
    assert shown[3] == interval(found.sel(quantity="crps").values[0], 2)
    assert "Differences, paired" not in report_page(verified.isel(method=[0]), resamples=5)


def test_the_report_has_its_date(verified, tmp_path, undrawn):
    day = datetime.date(2031, 2, 3)
    assert "<p>Report of 2031-02-03</p>" in report_page(verified, resamples=5, date=day)
    write_dataset(verified, tmp_path / "n.nc")
    for name in ("a.html", "b.html"):
        write_report(tmp_path / "n.nc", tmp_path / name, resamples=5, progress=False, date=day)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    days = [str(datetime.date.today())]
    text = report_page(verified, resamples=5)
    assert any(f"Report of {one}<" in text for one in [*days, str(datetime.date.today())])


def test_images_without_object(store):
    "An empty truth in one case: still a page."
    study = open_study(store).load()
    study["truth"][0] = False
    study["fragments_truth"][0] = 0
    text = report_page(verify(study, permutations=5, progress=False), study, resamples=20)
    assert (
        "1 image without any object" in text
        and "the 2 of 3 images" in text
        and not re.search(r"\bnan\b", re.sub('base64,[^"]*', "", text))
    )


def test_chosen_cases(verified):
    many = verified.isel(case=[0, 1, 2] * 4).copy(deep=True)
    many["f1"].loc[{"estimator": "mmse"}] = np.linspace(0, 1, 12)[:, None] * [1, -1] + [0, 1]
    many["expected_loss"][:] = np.roll(np.linspace(0, 1, 12), 4)[:, None]
    assert list(report._chosen_cases(many).values()) == [[11, 10, 9], [0, 1, 2], [3, 2, 1]]
    assert (
        list(report._chosen_cases(verified).values())[0]
        == np.argsort(-verified["f1"].sel(estimator="mmse")[:, 0].values).tolist()
    )


def test_interval():
    assert interval([0.5, 0.4, 0.6]) == "0.50 (0.40 to 0.60)" and interval([0.5, 0.4, 0.6], 0, 100) == "50 (40 to 60)"
    assert interval([np.nan, 0, 1]) == "not defined" and interval([0.5, np.nan, 1.0], 1) == "0.5 (no interval)"


def test_write_report(store, tmp_path, undrawn):
    "From a store, from netCDF, from the numbers: the same table. Whole files or none, nothing replaced unasked."
    write_report(store, tmp_path / "new" / "a.html", numbers=tmp_path / "n.nc", resamples=20, progress=False)
    export_study(store, tmp_path / "s.nc")
    write_report(tmp_path / "s.nc", tmp_path / "b.html", resamples=20, progress=False)
    write_report(tmp_path / "n.nc", tmp_path / "c.html", resamples=20)
    tables = [
        re.findall("<table.*?</table>", (tmp_path / name).read_text(), re.S)
        for name in ("new/a.html", "b.html", "c.html")
    ]
    assert tables[0] == tables[1] == tables[2] and len(tables[0]) == 6
    assert "made from the numbers alone" in (tmp_path / "c.html").read_text()
    assert read_verified(tmp_path / "n.nc").attrs["title"] == "sdfdiff verification"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    (tmp_path / "not.nc").write_text("no")
    write_dataset(open_study(store)[["f1"]].load().assign_attrs(title="other"), tmp_path / "other.nc")
    for source, out, more, words in [
        ("n.nc", "b.html", {}, "force=True"),
        ("n.nc", "d.pdf", {}, "must end in .html"),
        ("n.nc", "d.html", {"numbers": tmp_path / "d.csv"}, "must end in .nc"),
        ("n.nc", "d.html", {"numbers": tmp_path / "n.nc"}, "name another file"),
        ("s.nc", "d.html", {"numbers": tmp_path / "n.nc"}, "force=True"),
        ("missing.zarr", "d.html", {}, "missing.zarr"),
        ("missing.nc", "d.html", {}, "missing.nc"),
        ("new", "d.html", {}, "no store"),
        ("not.nc", "d.html", {}, "not.nc"),
        ("other.nc", "d.html", {}, "other.nc"),
    ]:
        with pytest.raises((ValueError, OSError), match=re.escape(words)) as caught:
            write_report(tmp_path / source, tmp_path / out, progress=False, **more)
        assert len(str(caught.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in before} == before and not (tmp_path / "d.html").exists()
    assert not list(tmp_path.rglob(".writing-*"))


def test_half_a_study(tmp_path):
    "Refused, unless the finished part is asked for."
    plan = StudyPlan("tissue", (method_of("draft", name="one", weights="tissue", members=4),), cases=3)
    running = run_study(plan, tmp_path / "t.zarr")
    assert [next(running).done for _ in range(3)][-1] == 2
    running.close()
    with pytest.raises(ValueError, match="2 of its 3 cases"):
        write_report(tmp_path / "t.zarr", tmp_path / "a.html", progress=False)
    assert not (tmp_path / "a.html").exists()
    assert (
        write_report(tmp_path / "t.zarr", tmp_path / "a.html", partial=True, resamples=20, progress=False).sizes["case"]
        == 2
    )
