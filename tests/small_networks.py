"A network that many tests need: small, quick, and with weights that do not matter."

import torch

from sdfdiff.diffusion.network import Architecture, ScoreNetwork


def random_network(channels=1, seed=0):
    "A small network with random weights, in float32."
    generator = torch.Generator().manual_seed(seed)
    network = ScoreNetwork(Architecture(channels, width=16, multipliers=(1, 2), encoder_blocks=1))
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if weights.ndim > 1:
                weights.copy_(torch.randn(weights.shape, generator=generator) / weights[0].numel() ** 0.5)
            else:
                weights.fill_("norm.weight" in name)
    return network.eval().requires_grad_(False)
