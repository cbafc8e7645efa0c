"The prepared network says what the network says, to rounding; memory is counted, and sets the number of members."

from weakref import ref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import random_network
from torch.nn import functional as F

from sdfdiff.diffusion.model import load_model
from sdfdiff.diffusion.network import Architecture, ScoreNetwork, fast_dtype
from sdfdiff.ensembles import fused as module
from sdfdiff.ensembles.fused import Fused, free_memory, in_parallel, keep_memory, member_bytes, members_at_once

ARCHITECTURES = st.builds(
    Architecture, image_channels=st.sampled_from([1, 3]), width=st.sampled_from([8, 16]),
    multipliers=st.sampled_from([(1,), (1, 2), (1, 3, 2), (1, 1)]), encoder_blocks=st.just(1), blocks=st.integers(1, 2),
    unshuffle=st.sampled_from([1, 2, 4]), parametrisation=st.sampled_from(["preconditioned", "score"]),
    mean=st.sampled_from([0.0, 0.11]), deviation=st.sampled_from([0.16, 1.0]),
)  # fmt: skip
SEEDS = st.integers(0, 99)


def randomised(architecture, seed=0, dtype=torch.float32):
    "Weights of which none is zero, of a size that keeps every layer's output near one."
    network, generator = ScoreNetwork(architecture), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in network.parameters():
            size = weights[0].numel() if weights.ndim > 1 else 9
            weights.copy_(torch.randn(weights.shape, generator=generator) / size**0.5)
    return network.to(dtype).requires_grad_(False)


def inputs(network, members=3, images=1, side=16, seed=1):
    generator, a = torch.Generator().manual_seed(seed), network.architecture
    image = torch.rand(images, a.image_channels, side, 2 * side, generator=generator)
    return torch.randn(members, 1, side, 2 * side, generator=generator), network.encode(image)


@settings(max_examples=15, deadline=None)
@given(architecture=ARCHITECTURES, members=st.integers(1, 4), each=st.booleans(), level=st.floats(1e-3, 5), seed=SEEDS)
@pytest.mark.parametrize("fuse", [None, False])
def test_fused_is_the_network(fuse, architecture, members, each, level, seed):
    "In float32 and float64, whatever the architecture, with one image or one for each member."
    for dtype, within in ((torch.float32, 1e-5), (torch.float64, 2e-6)):  # the state is float32 in both
        network = randomised(architecture, seed, dtype)
        noisy, features = inputs(network, members, members if each else 1)
        expected = network(noisy, torch.tensor(level), features)
        got = Fused(network, fuse)(noisy, torch.tensor(level), features)
        assert got.dtype == torch.float32 and got.shape == noisy.shape
        assert (got - expected).abs().max() <= within * expected.abs().max()


@pytest.mark.parametrize("fuse", [None, False])
def test_bfloat16_rounds_no_worse(fuse):
    "Against float32, the prepared network is off by as much as the network itself."
    exact = randomised(Architecture(3, 32, (1, 2)))
    noisy, features = inputs(exact, side=32)
    expected = exact(noisy, 0.3, features)
    rough = randomised(Architecture(3, 32, (1, 2)), dtype=torch.bfloat16)
    features = type(features)(features.maps.bfloat16(), features.initial_estimate)
    plain, fused = (
        (rough(noisy, 0.3, features) - expected).std(),
        (Fused(rough, fuse)(noisy, 0.3, features) - expected).std(),
    )
    assert fused < 1.3 * plain < 0.05 * expected.std()


@pytest.mark.parametrize("fuse", [None, False])
@pytest.mark.parametrize("name", ["nuclei", "tissue"])
def test_members_do_not_depend_on_their_mates(name, fuse):
    "In bfloat16 to the bit."
    network = load_model(name, dtype=torch.bfloat16).network
    noisy, features = inputs(network, 7, side=32)
    fused = Fused(network, fuse)
    together = fused(noisy, 0.3, features)
    for size in (1, 2, 3, 4):
        assert torch.equal(torch.cat([fused(part, 0.3, features) for part in noisy.split(size)]), together)


def test_members_in_float32_depend_on_their_mates_by_rounding_only():
    "oneDNN cuts the work differently for a lone member."
    network = load_model("tissue", dtype=torch.float32).network
    noisy, features = inputs(network, 5, side=32)
    fused = Fused(network)
    together = fused(noisy, 0.3, features)
    assert (fused(noisy[:1], 0.3, features) - together[:1]).abs().max() < 1e-6


def test_steps_apart_are_the_steps_together():
    network = randomised(Architecture(1, 16, (1, 2)))
    noisy, features = inputs(network)
    apart, together = Fused(network, False)(noisy, 0.3, features), Fused(network)(noisy, 0.3, features)
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-5)


def test_fuses_says_no_where_it_cannot(monkeypatch):
    "Number formats and devices that oneDNN does not take, and a torch without the private operators."
    assert not module._fuses(torch.ones(1, dtype=torch.float64)) and not module._fuses(torch.ones(1, device="meta"))

    class Nothing:
        mkldnn = None

    monkeypatch.setattr(module.torch, "ops", Nothing())
    assert not module._fuses(torch.ones(1))
    network = randomised(Architecture(1, 8, (1, 2)))
    noisy, features = inputs(network)
    monkeypatch.undo()
    torch.testing.assert_close(Fused(network)(noisy, 0.3, features), network(noisy, 0.3, features), rtol=0, atol=1e-5)


def test_the_network_stays_as_it_was():
    "Preparing copies; it may go on training, and calls write into nothing that they were given."
    network = random_network().train().requires_grad_(True)
    before = {name: weights.clone() for name, weights in network.state_dict().items()}
    noisy, features = inputs(network)
    kept, maps = noisy.clone(), features.maps.clone()
    fused = Fused(network)
    first = fused(noisy, 0.3, features)
    assert (
        network.training and all(weights.requires_grad for weights in network.parameters()) and not first.requires_grad
    )
    assert torch.equal(noisy, kept) and torch.equal(features.maps, maps)
    assert all(torch.equal(weights, before[name]) for name, weights in network.state_dict().items())
    with torch.no_grad():
        network.leave.weight.add_(1.0)
    assert torch.equal(fused(noisy, 0.3, features), first), "a snapshot"
    with torch.inference_mode():
        empty = torch.zeros(1, 1, 8, 8)
        torch.testing.assert_close(Fused(network).encode(empty).maps, network.encode(empty).maps, rtol=0, atol=1e-5)


def test_kept_weights_belong_to_their_noise_level():
    "More levels than are kept, there and back."
    network = randomised(Architecture(1, 8, (1, 2)))
    noisy, features = inputs(network)
    fused, levels = Fused(network), torch.logspace(-3, 0.7, 40)
    there = [fused(noisy, level, features) for level in levels]
    back = [fused(noisy, level, features) for level in levels.flip(0)][::-1]
    assert all(map(torch.equal, there, back))
    assert fused._fold.cache_info().currsize <= 32
    for level, got in zip(levels[::13], there[::13]):
        torch.testing.assert_close(got, network(noisy, level, features), rtol=0, atol=1e-4)


def test_a_network_that_is_done_with_is_let_go():
    "At once, not when the garbage collector comes by: a new one is made for every image."
    network = random_network()
    noisy, features = inputs(network)
    fused = Fused(network)
    fused(noisy, 0.3, features)
    weights = ref(fused.weight)
    del fused
    assert weights() is None


def test_wrong_input_is_named():
    network = random_network()
    noisy, features = inputs(network)
    fused = Fused(network)
    for wrong in (noisy[0], noisy[:, :, :-1], noisy.expand(-1, 2, -1, -1)):
        with pytest.raises(ValueError, match="the noisy map has shape") as said:
            fused(wrong, 0.3, features)
        with pytest.raises(ValueError) as same:
            network(wrong, 0.3, features)
        assert str(said.value) == str(same.value)
    with pytest.raises(ValueError, match="one number for all members"):
        fused(noisy, torch.tensor([0.1, 0.2, 0.3]), features)
    with pytest.raises(ValueError, match="the image has shape"):
        fused.encode(torch.zeros(1, 2, 8, 8))
    assert torch.equal(fused(noisy, torch.tensor([0.3]), features), fused(noisy, 0.3, features))


@settings(max_examples=25, deadline=None)
@given(incoming=st.integers(1, 3), outgoing=st.integers(1, 3), rows=st.integers(1, 4), seed=SEEDS)
def test_grown_is_upsampling_and_convolution(incoming, outgoing, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = (2, incoming, rows, 3), (outgoing, incoming, 3, 3)
    x, weight = (torch.randn(*shape, generator=generator).double() for shape in shapes)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    torch.testing.assert_close(F.conv_transpose2d(x, module._grown(weight), stride=2, padding=1), expected)


def test_folded_is_modulation():
    generator = torch.Generator().manual_seed(0)
    convolution = torch.nn.Conv2d(3, 4, 3, padding=1).double().requires_grad_(False)
    x, modulation = torch.randn(2, 3, 5, 6, generator=generator).double(), torch.randn(8, generator=generator).double()
    scale, shift = modulation[:4, None, None], modulation[4:, None, None]
    torch.testing.assert_close(
        F.conv2d(x, *module._folded(convolution, modulation), padding=1), convolution(x) * (1 + scale) + shift
    )


# ---- memory


def chain(x):
    return x + 1 + 1 + 1


def forgotten(x):
    y = x + 1
    z = y + 1
    del y
    return z * 2


def viewed(x):
    y = x.clone()
    view = y[:10]
    del y
    return view * 2


def in_place(x):
    return F.silu(x.clone().add_(1).mul_(2), inplace=True)


CASES = [
    (chain, 8000), (forgotten, 8000), (viewed, 4040), (in_place, 4000), (lambda x: [x + i for i in range(5)], 20000),
    (lambda x: torch.cat([x, x]).view(2, -1)[0] + 1, 12000), (lambda x: x.view(10, 100).t(), 0),
    (lambda x: x.add_(1), 0), (lambda x: None, 0),
]  # fmt: skip


@pytest.mark.parametrize(("call", "expected"), CASES)
def test_live_bytes_of_known_calls(call, expected):
    x = torch.ones(1000)
    assert module._live_bytes(lambda: call(x)) == expected
    assert module._live_bytes(lambda: call(x)) == expected, "nothing is left over from the first time"


def test_live_bytes_let_errors_through():
    with pytest.raises(RuntimeError):
        module._live_bytes(lambda: torch.ones(2) + torch.ones(3))
    assert module._live_bytes(lambda: torch.ones(2)) == 8


def test_live_bytes_grow_with_the_members():
    "Proportional to the members but for what is there once; the prepared network holds less than the network."
    network = random_network()
    fused, sizes = Fused(network), {}
    for members in (2, 4, 8):
        noisy, features = inputs(network, members, side=64)
        fused(noisy, 0.3, features)
        sizes[members] = module._live_bytes(lambda noisy=noisy, features=features: fused(noisy, 0.3, features))
        assert sizes[members] < module._live_bytes(lambda noisy=noisy, features=features: network(noisy, 0.3, features))
    assert sizes[8] - sizes[4] == 2 * (sizes[4] - sizes[2])
    assert member_bytes(fused) * 64 * 128 == pytest.approx((sizes[8] - sizes[4]) / 4, rel=0.02)


def test_members_at_once_follow_the_budget():
    fused = Fused(random_network())
    each = 64 * 64 * (member_bytes(fused) + 8 * 4)
    chosen = [
        members_at_once(fused, 1000, 64 * 64, budget=int(n * each) + 1, enough=2**30) for n in (0, 1, 2, 7, 50, 2000)
    ]
    assert chosen == [1, 1, 2, 7, 50, 1000]
    assert members_at_once(fused, 1000, 64 * 64, enough=2**15) == 8, "no more than keep the processor busy"
    assert members_at_once(fused, 5, 64 * 64) == 5 and members_at_once(fused, 5, 4096**2) == 1
    canvases = [
        members_at_once(fused, 1000, 64 * 64, canvas, budget=2**30) for canvas in (2**12, 2**20, 2**22, 2**24, 2**30)
    ]
    assert canvases == sorted(canvases, reverse=True) and canvases[-1] == 1


def test_free_memory_is_plausible():
    assert 2**24 < free_memory() < 2**46


def test_keep_memory_tells_what_it_did(monkeypatch):
    monkeypatch.setattr(module.platform, "libc_ver", lambda: ("", ""))
    assert keep_memory() is False


def test_shipped_networks_are_fused_where_the_processor_is_fast():
    "No assertion on time: only that the fast way is the one taken on a processor with matrix units."
    network = load_model("tissue").network
    assert Fused(network).fuse or fast_dtype() == torch.float32


# ---- threads


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_in_parallel_keeps_the_order(workers):
    threads = torch.get_num_threads()
    assert list(in_parallel(lambda n: n * n, range(20), workers)) == [n * n for n in range(20)]
    assert list(in_parallel(lambda n: n, [], workers)) == []
    assert torch.get_num_threads() == threads


def test_in_parallel_gives_each_worker_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(in_parallel(lambda _: torch.get_num_threads(), range(4), 2)) == [1] * 4
        assert torch.get_num_threads() == 2 and list(in_parallel(lambda _: torch.get_num_threads(), range(2))) == [2, 2]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2])
def test_in_parallel_is_lazy_and_stops(workers):
    "It draws no further ahead than its workers, and an error or a consumer who leaves ends it."
    asked = []

    def items():
        for n in range(100):
            asked.append(n)
            yield n

    results = in_parallel(lambda n: 1 // (5 - n), items(), workers)
    assert [next(results) for _ in range(3)] == [0, 0, 0] and len(asked) <= 3 + workers
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert len(asked) <= 6 + workers
    asked.clear()
    results = in_parallel(lambda n: n, items(), workers)
    next(results)
    results.close()
    assert len(asked) <= 1 + workers


def test_members_drawn_in_threads_are_the_same():
    network = load_model("tissue", dtype=torch.bfloat16).network
    noisy, features = inputs(network, 6, side=32)
    fused = Fused(network)

    def draw(task):
        with torch.inference_mode():
            return fused(noisy[task[0] : task[0] + 2], task[1], features)

    tasks = [(first, level) for level in (0.01, 0.3, 5.0) for first in (0, 2, 4)]
    alone = list(map(draw, tasks))
    fused._fold.cache_clear()  # both threads make the weights of a level
    assert all(map(torch.equal, in_parallel(draw, tasks, 3), alone))
