"Instances: the split against a reconstruction, and every score against a loop over masks; degenerate cases first."

import numpy as np
import pytest
import xarray as xr
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.measure import label
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import relabel_sequential

from sdfdiff.distance import signed_distance
from sdfdiff.shapes import disc
from sdfdiff.uncertainty.fields import bootstrap
from sdfdiff.uncertainty.instances import instance_scores, instance_sums, split

# ---- split


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_empty_full_and_one_pixel(kind):
    far, deep = np.full((6, 7), 9, kind), np.full((6, 7), -9, kind)
    one = far.copy()
    one[2, 3] = -1
    assert split(far).max() == 0 and split(far).dtype == np.int32
    assert (split(deep) == 1).all() and (split(one) > 0).sum() == 1
    assert split(one, least=2).max() == 0
    for full in (np.zeros((3, 3), bool), np.ones((3, 3), bool)):
        assert (split(signed_distance(full)) == full).all(), "infinite distances"
    assert (split(np.array([[-1.0]])) == 1).all() and (split(np.array([[1.0]])) == 0).all()
    assert (split(far, np.ones((6, 7), bool)) == 1).all(), "the mask is kept where the distance calls it outside"
    assert split(np.zeros((0, 5))).shape == (0, 5)


def smooth(seed, shape=(70, 90), sigma=2.5):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return 6 * field / field.std()


@pytest.mark.parametrize("height", [0.0, 0.7, 2.0, 5.0])
def test_as_many_as_h_maxima(height):
    "Every regional maximum of the reconstruction (Soille 2003) is in one object, and every object holds one."
    for seed in range(4):
        distance = smooth(seed)
        mask, depth = distance <= 1, 1 - distance
        low = np.where(mask, depth, -99.0)
        cross = ndimage.generate_binary_structure(2, 1)
        lowered = np.where(mask, low - height, -199.0)
        filled = reconstruction(lowered, low, footprint=cross) if height else low
        tops, count = label((local_maxima(filled, connectivity=1)) & mask, connectivity=1, return_num=True)
        found = split(distance, mask, height, share=0, threshold=1)
        assert found.max() == count and ((found > 0) == mask).all()
        pairs = {(int(found[tops == k].min()), int(found[tops == k].max())) for k in range(1, count + 1)}
        assert pairs == {(k, k) for k in range(1, count + 1)}


def test_objects_are_whole_and_in_reading_order():
    found = split(smooth(5), height=1.0, least=5)
    assert found.max() > 10
    firsts = [np.flatnonzero(found == k)[0] for k in range(1, found.max() + 1)]
    assert firsts == sorted(firsts)
    for k in range(1, found.max() + 1):
        assert label(found == k, connectivity=1).max() == 1 and (found == k).sum() >= 5


def test_share_and_height_by_hand():
    both = np.minimum(disc((40, 60), (20, 20), 10), disc((40, 60), (20, 36), 10)) <= 0
    distance = signed_distance(both, boundary="half_pixel")
    peak, saddle = -distance[20, 20], -distance[20, 28]
    part = 1 - saddle / peak
    assert split(distance, share=part - 0.01).max() == 2 and split(distance, share=part + 0.01).max() == 1
    drop = peak - saddle
    assert split(distance, height=drop - 0.01, share=0).max() == 2
    assert split(distance, height=drop + 0.01, share=0).max() == 1
    halves = split(distance, share=0)
    assert abs((halves == 1).sum() - (halves == 2).sum()) <= 20 and halves[20, 20] != halves[20, 36]


def test_a_line_splits_whatever_the_size():
    "The distance of instances comes back to half a pixel where two touch: small and large ones are told apart alike."
    for radius in (3, 8, 25):
        rows, columns = np.ogrid[: 4 * radius, : 6 * radius]
        truth = np.where((rows - 2 * radius) ** 2 + (columns - 3 * radius) ** 2 < (1.8 * radius) ** 2, 1, 0)
        truth[:, 3 * radius :] *= 2
        found = split(signed_distance(truth, boundary="half_pixel"))
        assert found.max() == 2 and (found == truth).mean() > 0.99


def test_opening_holes_and_least():
    mask = np.zeros((30, 40), bool)
    mask[5:20, 3:18], mask[10:13, 7:10] = True, False  # a hole of 9 px²
    mask[12, 18:30], mask[25:28, 30:33], mask[0:3, 36:40] = True, True, True  # a hair, a small one, one at the border
    distance = signed_distance(mask, boundary="half_pixel")
    assert not split(distance, holes=8)[11, 8] and split(distance, holes=9)[11, 8] > 0
    bay = ~mask
    bay[10:13, 7:10] = True
    assert (split(-distance, bay, holes=1000) > 0).sum() < bay.size, "what touches the border is no hole"
    opened = split(distance, opening=1)
    assert opened[12, 24] == 0 and opened[26, 31] > 0 and (opened[0:3, 37:40] > 0).all()
    assert split(distance, least=10)[26, 31] == 0 and split(distance, least=9)[26, 31] > 0
    assert split(distance).max() - split(distance, least=10).max() == 1


@pytest.mark.parametrize("line", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_background_around_the_objects_changes_nothing(seed, line):
    "Two pixels in the corners make the objects' frame the whole image: the labels in between are the same."
    distance = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 50)), 2) * 20
    whole = np.full((75, 90), 9.0)
    whole[20:60, 15:65] = distance
    framed = whole.copy()
    framed[[0, -1], [0, -1]] = -1
    options = {"height": 0.3, "line": line}
    found, inside = split(whole, **options), split(framed, **options)
    assert found.max() > 8 and inside[0, 0] == 1 and inside[-1, -1] == found.max() + 2
    assert np.array_equal(np.where(inside > found.max() + 1, 0, np.maximum(inside - 1, 0)), found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distance": np.full((4, 4), np.nan)}, "no NaN"),
        ({"distance": np.zeros((2, 4, 4))}, r"\(2, 4, 4\)"),
        ({"mask": np.ones((3, 4), bool)}, "same pixels"),
        ({"mask": np.full((4, 4), 0.5)}, "fractions"),
        ({"height": -1}, "`height` is -1"),
        ({"least": np.inf}, "`least` is inf"),
        ({"share": 1.0}, "`share` is 1.0"),
    ],
)
def test_split_refuses(changes, words):
    with pytest.raises(ValueError, match=words):
        split(**{"distance": np.zeros((4, 4))} | changes)


# ---- scores


def brute(predicted, truth):
    "All scores from masks, one object after the other, as the papers write them."
    ours = [predicted == k for k in np.unique(predicted) if k]
    theirs = [truth == k for k in np.unique(truth) if k]
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in theirs] for a in ours])
    # Kumar et al. 2017, algorithm 1
    top, bottom, taken = 0, 0, set()
    for j, b in enumerate(theirs):
        i = int(iou[:, j].argmax())
        if iou[i, j] > 0:
            top, bottom, taken = top + (ours[i] & b).sum(), bottom + (ours[i] | b).sum(), taken | {i}
        else:
            bottom += b.sum()
    bottom += sum(a.sum() for i, a in enumerate(ours) if i not in taken)
    matched = iou[iou > 0.5]
    wrong = len(ours) + len(theirs) - 2 * len(matched)
    dq = len(matched) / (len(matched) + wrong / 2)

    def partner(one, others):
        shared = [(one & b).sum() for b in others]
        return int(np.argmax(shared)) if max(shared) else None

    def dice(one, others):
        k = partner(one, others)
        return 0 if k is None else 2 * (one & others[k]).sum() / (one.sum() + others[k].sum())

    def apart(one, other):
        between = cdist(np.argwhere(one), np.argwhere(other))
        return max(between.min(0).max(), between.min(1).max())

    def nearest(one, others):
        k = partner(one, others)
        return min(apart(one, b) for b in others) if k is None else apart(one, others[k])

    def mean(function):
        sides = (ours, theirs), (theirs, ours)
        return np.mean([np.average([function(a, b) for a in one], weights=[a.sum() for a in one]) for one, b in sides])

    right = sum((k := partner(a, theirs)) is not None and 2 * (a & theirs[k]).sum() > theirs[k].sum() for a in ours)
    precision, recall = right / len(ours), right / len(theirs)
    return {
        "aji": top / bottom,
        "dq": dq,
        "sq": matched.mean() if len(matched) else np.nan,
        "pq": matched.sum() / (len(matched) + wrong / 2),
        "ap": len(matched) / (len(matched) + wrong),
        "f1": 2 * precision * recall / (precision + recall) if right else 0,
        "dice": mean(dice),
        "hausdorff": mean(nearest),
    }


def cut_up(seed, shape=(48, 56)):
    "Random instances, with gaps, touching ones and lonely ones; numbers with holes between them."
    found = split(smooth(seed, shape, 2.0), height=0.3, share=0.0) * 3
    return np.where(np.random.default_rng(seed).random(found.max() + 1)[found] < 0.8, found, 0)


@pytest.mark.parametrize("seed", range(6))
def test_scores_against_a_loop(seed):
    predicted = cut_up(seed)
    truth = np.roll(predicted, (1, 2), (0, 1)) if seed % 2 else cut_up(seed + 100)
    for a, b in ((predicted, truth), (predicted, predicted)):
        value, right = instance_scores(instance_sums(a, b, hausdorff=True)), brute(a, b)
        assert {*value} == {*right}
        for name, number in right.items():
            assert np.isclose(value[name], number, equal_nan=True), name
    assert all(one.attrs["units"] and one.attrs["long_name"] for one in value.values())


def test_hausdorff_into_a_ring():
    "The pixel farthest from a ring may be in its middle: sets of pixels are compared, not outlines."
    inside = disc((41, 41), (20, 20), 18) <= 0
    ring = inside & (disc((41, 41), (20, 20), 12) > 0)
    value = instance_scores(instance_sums(inside * 2, ring * 2, hausdorff=True))
    assert np.isclose(value["hausdorff"], brute(inside * 2, ring * 2)["hausdorff"]) and value["hausdorff"] > 10


def test_merged_split_and_touching_by_hand():
    truth = np.zeros((10, 24), int)
    truth[2:8, 2:12], truth[2:8, 12:22] = 4, 9
    merged = instance_scores(instance_sums(truth > 0, truth, hausdorff=True))
    assert np.allclose([merged[name] for name in ("aji", "pq", "f1", "dice")], [0.5, 0, 2 / 3, 2 / 3])
    assert merged["hausdorff"] == 10 and np.isnan(merged["sq"])
    parts = truth.copy()
    parts[5:8, 2:12] = 5  # halves: an IoU of exactly one half is no match
    value = instance_scores(instance_sums(parts, truth))
    assert np.isclose(value["dq"], 2 / 5) and np.isclose(value["ap"], 1 / 4) and value["sq"] == 1
    assert np.isclose(value["f1"], 2 / 5), "half of the true object is not more than half"


def test_nothing_on_one_side_or_both():
    empty, some = np.zeros((8, 8), int), np.pad(np.full((3, 3), 2), ((1, 4), (2, 3)))
    value = instance_scores(instance_sums(empty, empty, hausdorff=True))
    assert {float(one) for name, one in value.items() if name != "hausdorff"} == {1.0} and value["hausdorff"] == 0
    for pair in ((empty, some), (some, empty)):
        value = instance_scores(instance_sums(*pair, hausdorff=True))
        assert [float(value[name]) for name in ("aji", "pq", "dq", "ap", "f1", "dice")] == [0] * 6
        assert np.isnan(value["sq"]) and np.isinf(value["hausdorff"])
    full = np.ones((8, 8), int)
    assert instance_scores(instance_sums(full, full))["aji"] == 1


def test_sums_add_over_images():
    "A set of images scores as one image that holds them all; the mean of the images' scores is something else."
    pairs = [(cut_up(k), cut_up(k + 50)) for k in range(3)]
    predicted, truth = (np.stack(side) for side in zip(*pairs))
    sums = instance_sums(predicted, truth)
    assert sums.sizes == {"case": 3} and len(bootstrap(sums, instance_scores, resamples=9)["aji"]) == 3
    far = [np.hstack([np.where(one, one + 1000 * k, 0) for k, one in enumerate(side)]) for side in zip(*pairs)]
    # the images touch there; keep their objects apart
    assert all(len(np.unique(side)) - 1 == sum(len(np.unique(one)) - 1 for one in np.hsplit(side, 3)) for side in far)
    whole, pooled = instance_scores(instance_sums(*far)), instance_scores(sums.sum("case"))
    for name in pooled:
        assert np.isclose(whole[name], pooled[name]), name
    alone = [float(instance_scores(instance_sums(*pair))["aji"]) for pair in pairs]
    assert np.allclose(instance_scores(sums)["aji"], alone) and not np.isclose(np.mean(alone), pooled["aji"])
    named = [
        xr.DataArray(side, dims=("case", "row", "column"), coords={"case": list("abc")}) for side in (predicted, truth)
    ]
    lazy = instance_sums(*(one.chunk(case=1) for one in named)).compute()
    assert lazy["case"].values.tolist() == list("abc") and np.allclose(lazy["union"], sums["union"])


def test_names_of_labels_do_not_matter():
    predicted, truth = cut_up(1), cut_up(2)
    plain = instance_sums(relabel_sequential(predicted)[0], relabel_sequential(truth)[0])
    strange = instance_sums(predicted.astype(np.uint16) * 7, truth.astype(np.int64) * 10**9)
    assert all(np.isclose(plain[name], strange[name]) for name in plain)


def test_scores_refuse():
    with pytest.raises(ValueError, match="has no predicted"):
        instance_scores(xr.Dataset())
    with pytest.raises(ValueError, match="same pixels"):
        instance_sums(np.zeros((4, 4), int), np.zeros((4, 5), int))
    with pytest.raises(ValueError, match="`truth` holds fractions"):
        instance_sums(np.zeros((4, 4), int), np.full((4, 4), 0.5))


# ---- a line between objects, given back


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_a_line_between_squares_is_given_back(line):
    "Two squares that touch, trained with a line: each has its pixels again, to the tie in the middle."
    squares = np.zeros((30, 44), int)
    squares[5:25, 4:20], squares[5:25, 20:38] = 1, 2
    apart = squares.copy()
    first = 20 - line // 2
    apart[:, first : first + line] = 0
    field = signed_distance(apart, boundary="half_pixel")
    assert (split(field) == apart).all()
    found = split(field, line=line)
    assert (found[5:25] > 0)[:, 4:38].all() and (found[6:24] != squares[6:24]).sum() <= 18 * (line % 2)
    assert (found[:4] == 0).all() and (found[26:] == 0).all() and (found[:, :4] == 0).all()
    assert ((found > 0) & (squares == 0)).sum() <= 4 * line, "at most the ends of the line"


def test_only_what_lies_between_two_objects_is_given_back():
    field = np.minimum(disc((40, 60), (20, 14), 8), disc((40, 60), (20, 42), 8))
    plain = split(field)
    assert plain.max() == 2 and (split(field, line=8) == plain).all(), "12 px apart"
    joined = split(field, line=13)
    assert ((joined == plain) | (plain == 0)).all() and joined[20, 23:33].all() and joined[20, 2:5].max() == 0
    with pytest.raises(ValueError, match="`line` is -1"):
        split(field, line=-1)
