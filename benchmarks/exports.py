"Objects as GeoJSON: seconds and memory of a million of them, and the same objects written with shapely and json."

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from uuid import uuid4

import numpy as np
import xarray as xr
from scipy import ndimage

from benchmarks.resident import in_own_process, resident
from sdfdiff.ensembles.exports import columns, write_geojson
from sdfdiff.outlines import trace_outlines

WRITE = "benchmarks.exports.write_alone"


def patch(
    side: int = 1000,  # Rows and columns
    pitch: int = 25,  # Pixels from nucleus to nucleus; 25 is dense: 1600 on 1000 x 1000 px
    seed: int = 0,  # Of sizes and places
) -> np.ndarray:  # uint32 labels
    "Ellipses of about 200 pixels, as nuclei at 40x, none of which touch."
    rows, columns = np.indices((side, side), np.float32)
    cell = (rows // pitch * (side // pitch) + columns // pitch).astype(int)
    generator = np.random.default_rng(seed)
    number = cell.max() + 1
    middle, radius, turn = (generator.uniform(*ends, (2, number)) for ends in ((-2, 2), (6, 10), (0, 3)))
    across, along = (one % pitch - (pitch - 1) / 2 - middle[k][cell] for k, one in enumerate((rows, columns)))
    cos, sin = np.cos(turn[0])[cell], np.sin(turn[0])[cell]
    inside = (
        np.hypot((cos * across + sin * along) / radius[0][cell], (cos * along - sin * across) / radius[1][cell]) < 1
    )
    return np.where(inside, cell + 1, 0).astype(np.uint32)


class Slide:
    "Labels of a slide that is one patch again and again, each nucleus with a number of its own; made when read."

    def __init__(self, patch: np.ndarray, count: int):  # `count` of patches per side
        self.patch, self.count, self.most = patch, count, int(patch.max())
        self.shape, self.dtype = (len(patch) * count, len(patch) * count), patch.dtype

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        rows, columns = (np.arange(size)[one] for size, one in zip(self.shape, key))
        side = len(self.patch)
        found = self.patch[np.ix_(rows % side, columns % side)]
        block = np.add.outer(rows // side * self.count, columns // side).astype(np.uint32)
        return np.where(found, found + block * np.uint32(self.most), 0)


def given(
    patch: np.ndarray,  # Labels
    count: int,  # Objects
) -> Iterator[tuple[int, list]]:
    "Number and polygons of as many objects as are wanted: those of a patch, moved."
    known, side = [polygons[0][0] for _, polygons in trace_outlines(patch)], len(patch)
    for number in range(count):
        block, which = divmod(number, len(known))
        yield number + 1, [[known[which] + np.array(divmod(block, 25)) * side]]


def measured(
    count: int,  # Objects
) -> xr.Dataset:  # A table of 12 columns
    "Random numbers with the names and units of a real table."
    generator, names = np.random.default_rng(0), ("row", "column", "area", "perimeter", "area_std")
    table = xr.Dataset(coords={"id": ("object", np.arange(1, count + 1))})
    for name, unit in zip(names, ("px", "px", "µm²", "µm", "µm²")):
        table[name] = ("object", generator.uniform(1, 4e4, count), {"units": unit})
    for name in ("eccentricity", "haematoxylin", "eosin", "probability", "split", "merged", "margin"):
        table[name] = ("object", generator.random(count))
    return table


def write_alone(
    source: str,  # "polygons": given ones; "labels": they are traced first
    count: int,  # Objects; of labels, at least as many
    suffix: str = ".geojson.gz",  # Or .geojson
) -> dict[str, float]:  # objects; seconds; cpu: seconds of the processor; before, peak and size: bytes
    "Write one file in this process, which should have done nothing else; see `in_own_process`."
    one = patch()
    labels = Slide(one, int(np.ceil(np.sqrt(count / one.max())))) if source == "labels" else None
    count = labels.count**2 * labels.most if source == "labels" else count
    table = measured(count)
    with TemporaryDirectory() as folder:
        before, start, cpu = resident("VmRSS"), perf_counter(), process_time()
        path = write_geojson(Path(folder) / f"a{suffix}", given(one, count) if labels is None else labels, table)
        found = {"objects": count, "seconds": perf_counter() - start, "cpu": process_time() - cpu}
        return found | {"before": before, "peak": resident(), "size": path.stat().st_size}


def by_shapely(labels: np.ndarray) -> dict:  # Number: geometry
    "The obvious exact outline: the runs of an object's rows as boxes, and their union."
    import shapely

    found = {}
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        inside = np.pad(labels[place] == number, ((0, 0), (1, 1))).astype(np.int8)
        (row, begin), (_, end) = (np.nonzero(np.diff(inside) == sign) for sign in (1, -1))
        row, begin, end = row + place[0].start, begin + place[1].start, end + place[1].start
        found[number] = shapely.union_all(shapely.box(begin, row, end, row + 1))
    return found


def by_json(path: Path, shapes: dict, table: xr.Dataset) -> None:
    "The obvious writer: one dictionary for all, and json.dump."
    from shapely.geometry import mapping

    found = columns(table)
    names, kind = [name for name in found if name != "id"], {"name": "object", "color": [60, 160, 90]}
    rows = dict(zip(found["id"].tolist(), zip(*(found[name].tolist() for name in names))))
    features = []
    for number, shape in shapes.items():
        about = {"objectType": "detection", "classification": kind, "measurements": dict(zip(names, rows[number]))}
        features.append({"type": "Feature", "id": str(uuid4()), "geometry": mapping(shape), "properties": about})
    with path.open("w", encoding="utf8") as file:
        json.dump({"type": "FeatureCollection", "features": features}, file)


def race(
    count: int = 4,  # Patches per side; 1600 objects each
    rounds: int = 3,  # Of each way
) -> dict[str, tuple[float, float]]:  # Seconds of each: minimum and median
    "The same objects to .geojson, from labels and from given polygons, with us and with shapely and json, in turn."
    from benchmarks.competitors import interleaved

    slide = Slide(patch(), count)
    labels, table = slide[:, :], measured(count**2 * slide.most)
    shapes, polygons = by_shapely(labels), list(trace_outlines(labels))
    areas = np.bincount(labels.flat)[1:]
    assert [shape.area for shape in shapes.values()] == areas.tolist(), "they draw the same outlines"
    with TemporaryDirectory() as folder:
        ours, theirs = (Path(folder) / f"{name}.geojson" for name in ("ours", "theirs"))
        calls = {
            "labels, sdfdiff": lambda: write_geojson(ours, labels, table, force=True),
            "labels, shapely and json": lambda: by_json(theirs, by_shapely(labels), table),
            "polygons, sdfdiff": lambda: write_geojson(ours, polygons, table, force=True),
            "polygons, json": lambda: by_json(theirs, shapes, table),
        }
        return interleaved(calls, rounds)


def export_study(
    objects: int = 1_000_000,  # To write once from each source
    patches: int = 4,  # Per side, of the race
    rounds: int = 3,  # Of the race
) -> xr.Dataset:
    "Everything above as numbers."
    ways = {(source, suffix): in_own_process(WRITE, source, objects, suffix) for source, suffix in SOURCES}
    found = race(patches, rounds)
    names = [f"{source} to {suffix}" for source, suffix in SOURCES]
    data = {
        f"many_{name}": ("way", np.array([one[name] for one in ways.values()], float), {"units": unit})
        for name, unit in (
            ("objects", "1"),
            ("seconds", "s"),
            ("cpu", "s"),
            ("before", "bytes"),
            ("peak", "bytes"),
            ("size", "bytes"),
        )
    }
    data["race_seconds"] = (("writer", "statistic"), np.array(list(found.values())), {"units": "s"})
    coordinates = {"way": names, "writer": list(found), "statistic": ["minimum", "median"]}
    return xr.Dataset(data, coordinates, {"race_objects": patches**2 * int(patch().max())})


SOURCES = (("polygons", ".geojson.gz"), ("polygons", ".geojson"), ("labels", ".geojson.gz"))


def export_table(
    result: xr.Dataset,  # Of `export_study`
) -> str:
    "The numbers as lines to print."
    lines = ["GeoJSON, one process, one thread  [goals of a million given polygons: 60 s, 1024 MiB]"]
    lines.append(f"{'from':<28}{'objects':>10}{'time':>10}{'of CPU':>10}{'peak':>11}{'before':>11}{'file':>10}")
    for name, one in result.groupby("way"):
        one = {
            key: float(one[f"many_{key}"].squeeze()) for key in ("objects", "seconds", "cpu", "peak", "before", "size")
        }
        memory = f"{one['peak'] / 2**20:>7.0f} MiB{one['before'] / 2**20:>7.0f} MiB{one['size'] / 1e6:>7.0f} MB"
        lines.append(f"{name:<28}{one['objects']:>10.0f}{one['seconds']:>8.1f} s{one['cpu']:>8.1f} s{memory}")
    lines.append(f"In turn, {result.attrs['race_objects']} objects to .geojson, least of the runs")
    least = result["race_seconds"].sel(statistic="minimum")
    for source in ("labels", "polygons"):
        ours, theirs = (one for one in result["writer"].values if one.startswith(source))
        ours, theirs = float(least.sel(writer=ours)), float(least.sel(writer=theirs))
        lines.append(f"{theirs / ours:>8.1f} x  from {source}: {ours:.2f} s, shapely and json {theirs:.2f} s")
    return "\n".join(lines)
