"Crops that carry their own coordinates: where each pixel came from is read off the image, not believed."

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from sdfdiff import shapes
from sdfdiff.distance import signed_distance
from sdfdiff.images import training_data as module
from sdfdiff.images.synthetic import tissue
from sdfdiff.images.training_data import PAPER, STRONG, Augmentation, TissueTrainingData, TrainingData, folds
from sdfdiff.images.training_data import keep_apart, moments

SCALE = 1024.0  # coordinates are stored as pixels / SCALE, so that they are an image in [0, 1], exactly
GEOMETRY = Augmentation(quarter_turns=True, turn=45.0, zoom=1.5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def coordinates(shape):
    "An image whose channels are the row and the column of each pixel."
    return torch.from_numpy(np.stack(np.indices(shape)).astype(np.float32) / SCALE)


def located(shape, exact, crop, augmentation):
    "One image that knows its coordinates, with the distance map `exact`."
    return TrainingData([coordinates(shape)], [torch.from_numpy(exact)], crop, augmentation)


def sources(images):
    "Row and column in the source of each pixel of each crop, shape (batch, row, column)."
    return (images * SCALE).double().unbind(1)


def steps(field):
    "Change from pixel to pixel: downwards and to the right, at the upper left of each square."
    return field[:, 1:, :-1] - field[:, :-1, :-1], field[:, :-1, 1:] - field[:, :-1, :-1]


# Geometry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quarter_turns", [False, True])
def test_flips_and_quarter_turns_take_pixels_as_they_are(quarter_turns):
    "Every crop is a window of the source, turned or mirrored: image to a rounding error, distance to a thousandth."
    generator = np.random.default_rng(0)
    image = generator.random((2, 40, 57), dtype=np.float32)
    labels = (generator.random((40, 57)) < 0.05).astype(np.int32)
    data = TrainingData.of([image], [labels], crop=24, augmentation=Augmentation(quarter_turns=quarter_turns))
    source = np.concatenate([image, signed_distance(labels, 1000.0)[None]])
    windows = np.lib.stride_tricks.sliding_window_view(source, (24, 24), axis=(1, 2))  # channel, place, row, column
    images, distances = data.draw(40, seeded())
    found = set()
    for view in torch.cat([images, distances], dim=1).numpy():
        matches = []
        for mirrored in (False, True):
            for turns in range(4) if quarter_turns else (0, 2):
                turned = np.rot90(view[..., ::-1] if mirrored else view, turns, axes=(1, 2))
                at = np.abs(windows[0, :, :, 0, 0] - turned[0, 0, 0]) < 1e-3
                for place in np.argwhere(at):
                    if np.abs(windows[:, *place] - turned).max() < 1e-3:
                        matches.append((mirrored, turns))
        assert len(matches) == 1
        found |= set(matches)
    assert len(found) == (8 if quarter_turns else 4)


def test_without_any_augmentation_crops_are_upright_and_everywhere():
    data = located((30, 34), np.zeros((30, 34), np.float32), 28, Augmentation(flip=False))
    row, column = sources(data.draw(200, seeded())[0])
    for field, axis in ((row, 1), (column, 2)):
        assert torch.allclose(field.diff(dim=axis), torch.ones(()).double(), atol=1e-3)
    corners = {(round(r), round(c)) for r, c in zip(row[:, 0, 0].tolist(), column[:, 0, 0].tolist())}
    assert corners == {(r, c) for r in range(3) for c in range(7)}  # all of them, and none outside


@pytest.mark.parametrize("augmentation", [PAPER, Augmentation(flip=False, quarter_turns=True)])
def test_each_orientation_is_equally_frequent(augmentation):
    data = located((20, 30), np.zeros((20, 30), np.float32), 4, augmentation)
    row, column = sources(data.draw(800, seeded())[0])
    down, right = steps(row)[0][:, 0, 0].round(), steps(column)[1][:, 0, 0].round()
    across = steps(row)[1][:, 0, 0].round()
    kinds = torch.stack([down, right, across], dim=1).unique(dim=0, return_counts=True)[1]
    assert len(kinds) == 4 and (kinds.double() / 800 - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 800)


def jacobian(data, batch, seed=0):
    "What one pixel of a crop is in the source, (batch, 2, 2): rows are source row and column, columns down and right."
    row, column = sources(data.draw(batch, seeded(seed))[0])
    rows = [torch.stack([step.mean(dim=(1, 2)) for step in steps(field)], dim=1) for field in (row, column)]
    return torch.stack(rows, dim=1)


def test_turns_and_zooms_are_similarities_within_their_ranges():
    "Whatever the shape of the image: no shear, one magnification for both directions, within the ranges."
    data = located((150, 90), np.zeros((150, 90), np.float32), 16, Augmentation(turn=30.0, zoom=1.5))
    maps = jacobian(data, 400)
    square = maps @ maps.transpose(1, 2)
    zoom = square.diagonal(dim1=1, dim2=2).mean(dim=1) ** -0.5
    still = (zoom - 1).abs() < 1e-3
    inside = torch.ones(400, dtype=torch.bool)  # crops beyond the border are reflected there, and no plain similarity
    row, column = sources(data.draw(400, seeded())[0])
    for field, axis in ((row, 1), (row, 2), (column, 1), (column, 2)):
        inside &= field.diff(dim=axis).flatten(1).std(dim=1) < 1e-3
    assert inside.double().mean() > 0.7 and inside[still].double().mean() > 0.7
    assert torch.allclose(square[inside], torch.eye(2).double() * zoom[inside, None, None] ** -2, atol=1e-3)
    assert 1 / 1.5 - 1e-3 < zoom[inside].min() < 0.75 and 1.4 < zoom[inside].max() < 1.5 + 1e-3
    angle = torch.rad2deg(torch.atan2(-maps[:, 0, 1], maps[:, 0, 0]))  # of the turn, up to flips
    angle = torch.minimum(angle.abs(), 180 - angle.abs())[inside]
    assert 25 < angle.max() < 30.1
    assert abs((angle < 0.05).double().mean() - 0.5) < 0.1 and abs(still.double().mean() - 0.5) < 0.1
    logarithm = zoom[inside & ~still].log() / math.log(1.5)
    assert abs(logarithm.mean()) < 0.15 and 0.45 < logarithm.std() < 0.7  # uniform in the logarithm: 0.577


@pytest.mark.parametrize(
    "exact",
    [shapes.disc((170, 110), (85.0, 50.0), 21.0), shapes.half_plane((170, 110), (80.0, 50.0), (0.8, -0.6))],
    ids=["disc", "plane"],
)
def test_a_zoomed_turned_distance_is_the_distance_of_the_zoomed_turned_shape(exact):
    "Of the crop itself: its value is the exact formula at the place it came from, in pixels of the crop."
    data = located(exact.shape, exact, 48, GEOMETRY)
    images, distances = data.draw(40, seeded(3))
    row, column = sources(images)
    zoom = (steps(row)[0] ** 2 + steps(column)[0] ** 2).sqrt().flatten(1).median(dim=1).values[:, None, None] ** -1
    if exact[85, 50] == -21:  # the disc
        expected = zoom * (torch.hypot(row - 85, column - 50) - 21)
        sure = torch.hypot(row - 85, column - 50) > 6  # its centre is a ridge, which no interpolation follows
    else:
        expected, sure = zoom * (0.8 * (row - 80) - 0.6 * (column - 50)), row > -1
    assert zoom.min() < 0.8 and zoom.max() > 1.3 and sure.double().mean() > 0.9
    assert ((distances[:, 0] - expected).abs()[sure]).max() < 0.05


def test_image_and_distance_stay_registered_under_everything():
    "An image that is a function of its distance still is that function afterwards, reflections at the border included."
    labels = shapes.mask(shapes.disc((40, 36), (22.0, 15.0), 9.0))
    distance = signed_distance(labels, 1000.0)
    data = TrainingData.of([(0.5 + distance / 100)[None]], [labels], 32, GEOMETRY)
    images, distances = data.draw(60, seeded(1))
    ratio = distances / (100 * (images - 0.5))  # the zoom, at every pixel
    clear = (images - 0.5).abs() > 0.01
    for one, sure in zip(ratio, clear):
        zoom = one[sure].median()
        assert 1 / 1.5 - 1e-3 < zoom < 1.5 + 1e-3 and (one[sure] / zoom - 1).abs().max() < 1e-2


def test_a_crop_larger_than_its_image_is_filled_by_reflection():
    exact = shapes.disc((20, 24), (9.0, 11.0), 5.0)
    images, distances = located((20, 24), exact, 32, Augmentation(flip=False)).draw(4, seeded())
    row, column = sources(images)
    mirrored = torch.tensor([*range(20), *range(19, 7, -1)]).double()
    assert torch.allclose(row[0], mirrored[:, None].expand(32, 32), atol=2e-3)
    assert torch.allclose(distances[0, 0].double(), torch.hypot(row[0] - 9, column[0] - 11) - 5, atol=5e-3)


def test_crops_on_the_grid_stay_within_the_image():
    "Without a turn or zoom no pixel is seen twice: coordinates go from corner to corner without turning back."
    data = located((50, 33), np.zeros((50, 33), np.float32), 33, PAPER)
    row, column = sources(data.draw(50, seeded())[0])
    assert ((row[:, -1, 0] - row[:, 0, 0]).abs() - 32).abs().max() < 1e-2
    assert ((column[:, 0, -1] - column[:, 0, 0]).abs() - 32).abs().max() < 1e-2


def test_large_images_are_drawn_more_often():
    small, large = np.zeros((1, 10, 10), np.float32), np.ones((1, 30, 20), np.float32)
    blank = [np.zeros((10, 10), bool), np.zeros((30, 20), bool)]
    images, _ = TrainingData.of([small, large], blank, 4).draw(1500, seeded())
    share = images.mean().item()
    assert abs(share - 6 / 7) < 4 * math.sqrt(6 / 49 / 1500)


# Tone ----------------------------------------------------------------------------------------------------------------


def picture(batch=40, channels=3):
    return 0.3 + 0.4 * torch.rand(batch, channels, 12, 12, generator=seeded(9))


def test_the_paper_s_augmentation_changes_no_tone():
    assert torch.equal(module._change_tone(picture(), PAPER, seeded()), picture())


def test_brightness_is_a_shift():
    shift = module._change_tone(picture(), Augmentation(brightness=0.2), seeded()) - picture()
    assert shift.flatten(1).std(dim=1).max() < 1e-6
    assert -0.2 <= shift.min() < -0.15 and 0.15 < shift.max() <= 0.2


def test_contrast_is_a_gain_about_the_mean_of_each_channel():
    image = picture()
    view, middle = (
        module._change_tone(image, Augmentation(contrast=0.4), seeded()),
        image.mean(dim=(2, 3), keepdim=True),
    )
    gain = ((view - middle) * (image - middle)).sum(dim=(1, 2, 3)) / (image - middle).square().sum(dim=(1, 2, 3))
    assert torch.allclose(view, middle + gain[:, None, None, None] * (image - middle), atol=1e-5)
    assert 0.6 <= gain.min() < 0.7 and 1.3 < gain.max() <= 1.4


def test_gamma_is_a_power():
    power = module._change_tone(picture(), Augmentation(gamma=0.5), seeded()).log() / picture().log()
    assert power.flatten(1).std(dim=1).max() < 1e-5
    assert -0.5 - 1e-5 <= power.log().min() < -0.4 and 0.4 < power.log().max() <= 0.5 + 1e-5


def test_colour_changes_each_channel_by_itself_and_grey_not_at_all():
    image = picture()
    middle = (module._change_tone(image, Augmentation(colour=0.1), seeded()) - image).mean(dim=(2, 3))
    assert middle.std(dim=1).mean() > 0.03 and middle.abs().max() <= 0.1 + 1e-6
    assert torch.equal(module._change_tone(image[:, :1], Augmentation(colour=0.1), seeded()), image[:, :1])


def test_a_share_of_colour_images_turns_grey():
    image = picture(400)
    view = module._change_tone(image, Augmentation(grey=0.3), seeded())
    grey = (view == view[:, :1]).flatten(1).all(dim=1)
    assert abs(grey.double().mean() - 0.3) < 4 * math.sqrt(0.21 / 400)
    assert torch.equal(view[~grey], image[~grey])
    assert torch.allclose(view[grey], image[grey].mean(dim=1, keepdim=True).expand(-1, 3, -1, -1), atol=1e-6)
    assert torch.equal(module._change_tone(image[:, :1], Augmentation(grey=1.0), seeded()), image[:, :1])


def test_any_tone_stays_an_image():
    extreme = Augmentation(contrast=1.0, brightness=0.9, gamma=1.0, colour=0.5)
    for image in (picture(), torch.zeros(8, 3, 4, 4), torch.ones(8, 3, 4, 4)):
        view = module._change_tone(image, extreme, seeded())
        assert view.isfinite().all() and view.min() >= 0 and view.max() <= 1
    assert torch.equal(image, torch.ones(8, 3, 4, 4))  # the input is left alone


def test_tone_never_moves_the_distance():
    labels = [shapes.mask(shapes.disc((40, 40), (20.0, 18.0), 9.0))]
    image = [np.random.default_rng(0).random((3, 40, 40), dtype=np.float32)]
    plain = TrainingData.of(image, labels, 16, GEOMETRY).draw(6, seeded(2))
    tone = replace(GEOMETRY, contrast=0.3, brightness=0.1, gamma=0.3, colour=0.1)
    toned = TrainingData.of(image, labels, 16, tone).draw(6, seeded(2))
    assert torch.equal(plain[1], toned[1]) and not torch.allclose(plain[0], toned[0], atol=0.01)


# Images as a whole ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["inner", "half_pixel"])
def test_distances_are_computed_on_the_whole_image_in_the_wanted_convention(boundary):
    labels = np.zeros((30, 40), np.int32)
    labels[:, 30:35], labels[:, 35:] = 1, 2
    data = TrainingData.of([np.zeros((1, 30, 40))], [labels], 8, Augmentation(flip=False), boundary)
    assert torch.equal(data.distances[0], torch.from_numpy(signed_distance(labels, boundary=boundary)))
    assert data.images[0].dtype == data.distances[0].dtype == torch.float32
    _, distances = data.draw(20, seeded())
    assert distances.max() > 8 * math.sqrt(2)  # further from the boundary than any within the crop could be


def test_images_without_a_boundary_are_far_or_deep_everywhere():
    blank, image = np.zeros((9, 9), bool), np.zeros((1, 9, 9), np.float32)
    data = TrainingData.of([image, image], [blank, ~blank], crop=9)
    assert (data.distances[0] == 1000).all() and (data.distances[1] == -1000).all()
    strong = TrainingData.of([image, image], [blank, ~blank], crop=9, augmentation=STRONG).draw(30, seeded())[1]
    assert (strong.abs() > 700).all()  # untruncated until after the zoom


def test_draws_depend_on_the_generator_alone():
    image, labels = np.random.default_rng(0).random((3, 40, 40)), shapes.mask(shapes.disc((40, 40), (20.0, 18.0), 9.0))
    for data in (TrainingData.of([image], [labels], 16, STRONG), TissueTrainingData(32)):
        before = torch.random.get_rng_state()
        first, again, other = (data.draw(3, seeded(seed)) for seed in (5, 5, 6))
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
        assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])
        assert torch.equal(before, torch.random.get_rng_state())
        assert first[0].shape == (3, 3, data.crop, data.crop) and first[1].shape == (3, 1, data.crop, data.crop)
        generator = seeded(5)
        data.draw(3, generator)
        assert not torch.equal(data.draw(3, generator)[1], first[1])  # the next batch is another one


def test_drawing_leaves_the_source_alone():
    image, labels = np.random.default_rng(0).random((1, 20, 20), dtype=np.float32), np.eye(20, dtype=bool)
    data = TrainingData.of([image.copy()], [labels], 8, STRONG)
    data.draw(5, seeded())[0].zero_()
    assert torch.equal(data.images[0], torch.from_numpy(image))
    assert torch.equal(data.distances[0], torch.from_numpy(signed_distance(labels)))


def test_moments_are_those_of_all_truncated_pixels():
    maps = [shapes.disc((20, 30), (9.0, 12.0), 6.0), shapes.disc((41, 10), (9.0, 5.0), 3.0)]
    data = TrainingData([], [torch.from_numpy(one) for one in maps])
    values = np.concatenate([one.ravel() for one in maps]).clip(-7, 7) * 0.2 / 7
    assert moments(data, 7.0, 0.2) == pytest.approx((values.mean(), values.std(ddof=1)), rel=1e-5)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda: Augmentation(zoom=0.9), "zoom is 0.9"),
        (lambda: Augmentation(zoom=math.nan), "zoom is nan"),
        (lambda: Augmentation(turn=-1.0), "turn=-1.0"),
        (lambda: Augmentation(gamma=-0.1), "gamma=-0.1"),
        (lambda: Augmentation(grey=-0.5), "grey"),
        (lambda: Augmentation(grey=1.5), "grey"),
        (lambda: TrainingData.of([], []), "0 images and 0 masks"),
        (lambda: TrainingData.of([np.zeros((1, 4, 4))] * 2, [np.zeros((4, 4), bool)]), "2 images and 1 masks"),
        (
            lambda: TrainingData.of([np.zeros((1, 4, 4)), np.zeros((1, 4, 5))], [np.zeros((4, 4), bool)] * 2),
            r"Image 1 .*\(4, 5\)",
        ),
        (lambda: TrainingData.of([np.zeros((1, 4, 4)), np.zeros((3, 4, 4))], [np.zeros((4, 4), bool)] * 2), "channel"),
        (lambda: TrainingData.of([np.zeros((1, 4, 4))], [np.zeros((4, 4), bool)], crop=0), "crop is 0"),
        (lambda: TrainingData.of([np.zeros((1, 4, 4))], [np.zeros((4, 4), bool)], boundary="outer"), '"outer"'),
    ],
)
def test_bad_input_is_named_in_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        wrong()
    assert "\n" not in str(caught.value)


# Tissue --------------------------------------------------------------------------------------------------------------


def test_a_scene_is_tissue_with_one_rater():
    image, distance = TissueTrainingData(40, "half_pixel").example(1234)
    scene = tissue(1234, (40, 40))
    assert torch.equal(image, torch.from_numpy(scene.image).permute(2, 0, 1)) and image.is_contiguous()
    labels = scene.rate(np.random.default_rng(1234))
    assert torch.equal(distance, torch.from_numpy(signed_distance(labels > 0, 1000.0, "half_pixel")))


def test_seeds_below_1000_are_never_trained_on(monkeypatch):
    asked = []

    def remember(self, seed):
        asked.append(seed)
        return torch.zeros(3, 1, 1), torch.zeros(1, 1)

    monkeypatch.setattr(TissueTrainingData, "example", remember)
    TissueTrainingData().draw(20_000, seeded())
    assert len(asked) == 20_000 and min(asked) >= 1000 and max(asked) < 2**31
    assert len(set(asked)) > 19_990 and np.mean(asked) == pytest.approx(2**30, rel=0.02)  # fresh, and from everywhere
    asked.clear()
    assert len(TissueTrainingData().distances) == len(set(asked)) == 200 and min(asked) >= 1000


def test_scenes_of_a_batch_keep_their_order(monkeypatch):
    monkeypatch.setattr(module, "tissue", lambda seed, shape: tissue(seed % 7, shape))
    images, distances = TissueTrainingData(32).draw(3, seeded(1))
    seeds = torch.randint(1000, 2**31, (3,), generator=seeded(1)).tolist()
    for image, distance, seed in zip(images, distances, seeds):
        expected = TissueTrainingData(32).example(seed)
        assert torch.equal(image, expected[0]) and torch.equal(distance[0], expected[1])


def test_raters_of_training_scenes_follow_the_known_probability():
    "Over many scenes the drawn area is the expected one, so scene and rater do not share their chance."
    differences = []
    for seed in range(1000, 1120):
        scene = tissue(seed, (32, 32))
        differences.append((scene.rate(np.random.default_rng(seed)) > 0).sum() - scene.probability().sum())
    assert abs(np.mean(differences)) < 4 * np.std(differences) / math.sqrt(len(differences))


# Folds ---------------------------------------------------------------------------------------------------------------


def marked(groups, sizes=None):
    "Images whose value is their number, of the given patients and sizes."
    sizes = sizes or [8] * len(groups or [0] * 6)
    images = [torch.full((1, size, 4), float(k)) for k, size in enumerate(sizes)]
    return TrainingData(images, [torch.full((size, 4), float(k)) for k, size in enumerate(sizes)], 4, STRONG, groups)


def held(data):
    return [int(image.max()) for image in data.images]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_folds_hold_each_image_once_and_keep_patients_together(count):
    groups = ["b", "a", "b", "c", "a", "b", "d"]
    found = folds(marked(groups), count)
    assert len(found) == count and sorted(k for _, own in found for k in held(own)) == [*range(7)]
    for others, own in found:
        assert sorted(held(others) + held(own)) == [*range(7)] and held(own)
        assert not {groups[k] for k in held(others)} & {groups[k] for k in held(own)}
        for part in (others, own):
            assert part.groups == [groups[k] for k in held(part)] and (part.crop, part.augmentation) == (4, STRONG)
            assert [int(one.max()) for one in part.distances] == held(part)


def test_folds_copy_nothing_and_are_always_the_same():
    data = marked(["a", "b", "c"])
    first, second = folds(data, 3), folds(data, 3)
    assert [held(own) for _, own in first] == [held(own) for _, own in second]
    assert all(any(image is one for one in data.images) for others, _ in first for image in others.images)


def test_folds_have_about_as_many_pixels():
    sizes = [40, 5, 5, 10, 10, 10]
    found = folds(marked([*"abcdef"], sizes), 2)
    assert [sum(sizes[k] for k in held(own)) for _, own in found] == [40, 40]


def test_without_groups_each_image_is_a_patient():
    assert sorted(len(own.images) for _, own in folds(marked(None), 3)) == [2, 2, 2]
    with pytest.raises(ValueError, match="6 patients cannot be divided into 7 folds"):
        folds(marked(None), 7)


def test_too_few_patients_for_the_folds_are_refused():
    with pytest.raises(ValueError, match="2 patients cannot be divided into 3 folds: fewer encoders") as caught:
        folds(marked(["a", "b", "a", "b"]), 3)
    assert "\n" not in str(caught.value)


def test_scenes_are_new_to_every_encoder():
    data = TissueTrainingData(32)
    assert folds(data, 3) == [(data, data)] * 3


# Objects that touch -------------------------------------------------------------------------------------------------


def touching(*sides):
    "Squares side by side, 12 rows high, that touch in columns."
    labels = np.zeros((20, 4 + sum(sides) + 4), int)
    for k, (start, side) in enumerate(zip(np.cumsum([4, *sides]), sides), start=1):
        labels[4:16, start : start + side] = k
    return labels


@pytest.mark.parametrize(
    ("line", "gone"), [(0, []), (1, [14]), (2, [13, 14]), (3, [13, 14, 15]), (4, [12, 13, 14, 15])]
)
def test_a_line_runs_between_touching_squares(line, gone):
    "Exactly where it should, whatever the numbers; and the training target has two components."
    labels = touching(10, 10)
    apart = keep_apart(labels, line)
    assert np.flatnonzero((apart[8] == 0) & (labels[8] > 0)).tolist() == gone
    assert ((apart == labels) | (apart == 0)).all() and ((apart[:4] == 0) & (apart[16:] == 0)).all()
    far = keep_apart(np.where(labels == 1, 900, labels), line)
    assert (far > 0).sum() == (apart > 0).sum(), "large numbers, in another order: as much is lost"
    image = np.zeros((1, *labels.shape), np.float32)
    target = TrainingData.of([image], [labels], 16, line=line).distances[0].numpy() <= 0.5
    assert (target == (apart > 0)).all() and ndimage.label(target, np.ones((3, 3)))[1] == (2 if line else 1)


def test_no_object_has_another_within_the_line():
    "Random crowds, against a loop over all pairs of objects; what touches nothing stays whole."
    for seed in range(6):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 6, (7, 8)).repeat(6, 0).repeat(6, 1)
        for line in (1, 2, 3, 4):
            apart = keep_apart(labels, line)
            for k in np.unique(apart[apart > 0]):
                others = (apart > 0) & (apart != k)
                if others.any():
                    assert ndimage.distance_transform_edt(~others)[apart == k].min() >= (line + 1) // 2 + 0.5
            for k in np.unique(labels[labels > 0]):  # only pixels near another object are lost
                others = (labels > 0) & (labels != k)
                near = ndimage.distance_transform_edt(~others) if others.any() else np.full(labels.shape, np.inf)
                lost = (labels == k) & (apart != k)
                assert not lost.any() or near[lost].max() < (line + 1) // 2 + 0.5
    lonely = touching(8)
    assert (keep_apart(lonely, 4) == lonely).all() and keep_apart(lonely > 0, 2).max() == 1


def test_what_is_thinner_than_the_line_vanishes():
    assert set(np.unique(keep_apart(touching(6, 1, 6), 2)).tolist()) == {0, 1, 3}


def test_labels_and_lines_are_checked():
    for labels, line in (
        (np.zeros((4, 4)), 1),
        (np.zeros((2, 4, 4), int), 1),
        (np.zeros((4, 4), int), -1),
        (np.zeros((4, 4), int), 0.5),
    ):
        with pytest.raises(ValueError, match="whole number"):
            keep_apart(labels, line)
