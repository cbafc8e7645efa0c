"The profiler counts what is known, and its clock takes the shortest time."

import pytest
import torch
from small_networks import random_network

from benchmarks import profiler
from sdfdiff.diffusion.network import multiply_adds
from sdfdiff.ensembles.fused import Fused


def inputs(network, members, side):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, network.architecture.image_channels, side, 2 * side, generator=generator)
    return torch.randn(members, 1, side, 2 * side, generator=generator), network.encode(image)


def test_layer_groups_count_what_is_known():
    "Operations as multiply_adds counts them; the prepared network has none of the sums that were folded."
    network = random_network()
    noisy, features = inputs(network, 2, side=64)
    peak = {"gflops": 100.0, "gbytes": 10.0}
    plain, prepared = (
        profiler.layer_groups(network, features, noisy, peak),
        profiler.layer_groups(Fused(network), features, noisy, peak),
    )
    counted = sum(row["gflop"] for row in plain if "convolution" in row["group"])
    assert counted == pytest.approx(2e-9 * multiply_adds(network, (64, 128))["call"])
    fewer = sum(row["gflop"] for row in prepared if "convolution" in row["group"])
    assert 0.5 * counted < fewer < counted
    with torch.inference_mode():  # where torch shows a transposed convolution under another name
        same = profiler.layer_groups(Fused(network), features, noisy, peak)
    assert sum(row["gflop"] for row in same if "convolution" in row["group"]) == pytest.approx(fewer)
    sizes = [{row["group"]: row["megabytes"] for row in rows} for rows in (plain, prepared)]
    assert sizes[1]["SiLU"] < sizes[0]["SiLU"] and sizes[1]["sums and products"] < sizes[0]["sums and products"] / 2
    for row in plain + prepared:
        assert row["milliseconds"] >= 0 and row["share"] >= 0
        if row["gflop"]:
            least = max(row["gflop"] / peak["gflops"], row["megabytes"] / 1e3 / peak["gbytes"])
            assert row["share"] == pytest.approx(1e3 * least / row["milliseconds"])


def test_fastest_is_the_shortest():
    ticks = iter([0.0, 5.0, 5.0, 7.0, 7.0, 17.0])
    calls = []
    assert profiler.fastest(lambda: calls.append(1), 10.0, lambda: next(ticks)) == 2.0
    assert len(calls) == 4


def test_peaks_are_positive():
    assert all(value > 0 for value in profiler.peaks(torch.float32).values())
