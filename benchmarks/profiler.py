"Where the time of a network call goes: every operator timed and counted, beside the limits of the machine."

from collections.abc import Callable
from time import get_clock_info, perf_counter, thread_time

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdfdiff.diffusion.network import Features

_OWN_TIME = thread_time if get_clock_info("thread_time").resolution < 1e-6 else perf_counter
_GROUPS = {  # Word in an operator's name: group
    "norm": "normalisation",
    "silu": "SiLU",
    "add.": "sums and products",
    "add_.": "sums and products",
    "mul": "sums and products",
} | dict.fromkeys(("cat", "upsample", "shuffle", "copy", "clone"), "joining, resizing, copies")
_OPERATIONS = {"normalisation": 5, "SiLU": 16, "sums and products": 1}  # Per value, roughly


def fastest(
    call: Callable[[], object],  # What to time; it has to finish before it returns, so no work left on an accelerator
    seconds: float = 0.2,  # Time to spend, at least two runs after a first one that does not count
    clock: Callable[[], float] = _OWN_TIME,  # Processor time of this thread; `perf_counter` for work in several threads
) -> float:  # Seconds
    "Shortest time of a call."
    call()
    times = []
    while len(times) < 2 or sum(times) < seconds:
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


@torch.no_grad()
def peaks(
    dtype: torch.dtype,  # Number format of the products
) -> dict[str, float]:  # gflops: 10^9 operations per second; gbytes: 10^9 bytes per second, read and written
    "What this machine does at best with the threads that it has now (a product and a sum are two operations)."
    x, weight = (
        torch.ones(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((8, 128, 32, 32), (128, 128, 3, 3))
    )
    source, target = torch.ones(2, 2**20)
    convolve, copy = fastest(lambda: F.conv2d(x, weight, padding=1)), fastest(lambda: target.copy_(source))
    return {"gflops": 2 * x.numel() * 128 * 9 / convolve / 1e9, "gbytes": 2 * 4 * source.numel() / copy / 1e9}


class _Watch(TorchDispatchMode):
    "Time, operations and bytes of every operator."

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, float, int, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        start = _OWN_TIME()
        answer = function(*args, **(kwargs or {}))
        seconds, name = _OWN_TIME() - start, str(function)
        inputs, outputs = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in (args, answer))
        size = sum(t.numel() * t.element_size() for t in inputs + outputs)
        values = max((t.numel() for t in outputs), default=0)
        group = next((group for word, group in _GROUPS.items() if word in name), "rest")
        work = values * _OPERATIONS.get(group, 0)
        if "conv" in name:  # conv_transpose2d in inference mode, else convolution
            x, weight = [t for t in inputs if t.ndim == 4][-2:]
            rows, columns = outputs[0].shape[2:]
            grows = rows > x.shape[2]  # a transposed convolution: it is the input that meets all weights
            work = 2 * (x if grows else outputs[0]).numel() * weight[0].numel()
            wide = weight.shape[2] > 1 and min(weight.shape[:2]) >= 16
            group = f"3x3 convolutions, {rows}x{columns}" if wide else "1x1 and narrow convolutions"
        self.seen.append((group, seconds, work, size))
        return answer


@torch.no_grad()
def layer_groups(
    network: Callable[..., Tensor],  # ScoreNetwork or Fused, on the processor
    features: Features,  # Of one image
    noisy: Tensor,  # Noisy maps, (member, 1, row, column)
    peak: dict[str, float],  # What `peaks` says of the same number format
) -> list[dict]:  # Per group: milliseconds, gflop, megabytes of one member and call; gflops, gbytes per second; share
    "Where a call's time goes. `share`: time at the machine's limit, of operations or of bytes, over the time taken."
    network(noisy, 0.3, features)
    runs = []
    for _ in range(6):  # the fastest run of each operator counts
        with _Watch() as watch:
            network(noisy, 0.3, features)
        runs.append(watch.seen)
    total = {}
    for same in zip(*runs):
        group, _, work, size = same[0]
        sums = total.setdefault(group, [0.0, 0, 0])
        sums[:] = sums[0] + min(seconds for _, seconds, _, _ in same), sums[1] + work, sums[2] + size
    rows = []
    for group, (seconds, work, size) in sorted(total.items(), key=lambda item: -item[1][0]):
        least = max(work / peak["gflops"], size / peak["gbytes"]) / 1e9
        rows.append(
            {
                "group": group,
                "milliseconds": 1e3 * seconds / len(noisy),
                "gflop": 1e-9 * work / len(noisy),
                "megabytes": 1e-6 * size / len(noisy),
                "gflops": 1e-9 * work / seconds,
                "gbytes": 1e-9 * size / seconds,
                "share": least / seconds,
            }
        )
    return rows
