"Networks that many tests need: small, quick, and with weights that do not matter."

import json
import math
from dataclasses import replace

import torch
import xarray as xr

from sdfdiff.diffusion.network import Architecture, ScoreNetwork
from sdfdiff.files import write_dataset

TINY = Architecture(width=8, multipliers=(1, 2), encoder_blocks=1, mean=0.05, deviation=0.15)


def random_network(channels=1, seed=0, **changes):
    "A small network with random weights, in float32."
    generator = torch.Generator().manual_seed(seed)
    network = ScoreNetwork(Architecture(channels, width=16, multipliers=(1, 2), encoder_blocks=1, **changes))
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if weights.ndim > 1:
                weights.copy_(torch.randn(weights.shape, generator=generator) / weights[0].numel() ** 0.5)
            else:
                weights.fill_("norm.weight" in name)
    return network.eval().requires_grad_(False)


def one_call_network(channels=1, seed=0, encoders=2):
    "The same with some encoders that learned P(object), and with a generator."
    return random_network(channels, seed, probability=True, encoders=encoders, one_call=(1, 2))


def fresh(architecture=TINY, **changes):
    "A network as it is before training, always the same one."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ScoreNetwork(replace(architecture, **changes)).eval().requires_grad_(False)


def stirred(architecture=TINY, **changes):
    "A network in which no weight is zero: as after training, nothing is hidden by a zero."
    network, generator = fresh(architecture, **changes), torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        spread = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.1
        parameter += spread * torch.randn(parameter.shape, generator=generator)
    return network


CALIBRATION = {"slope": 0.5, "offset": -1.0, "members": 3, "objects": 70, "images": 4, "patients": 3, "error": 0.02}
CALIBRATION["error_before"] = 0.09


def calibration_file(path, weights_checksum, **changes):
    "What `evaluate --objects --out` writes, as far as P(exists) is corrected by it."
    drawn = {"sampler": "one_call", "calls_per_member": 1, "views": 1, "weights": "tiny", "data": "made validation"}
    found = CALIBRATION | drawn | {"weights_checksum": weights_checksum} | changes
    write_dataset(xr.Dataset(attrs={"title": "sdfdiff objects measured", "calibration": json.dumps(found)}), path)
    return path
