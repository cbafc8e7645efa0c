"A small training that several processes share: `accelerate launch ... two_processes.py FOLDER`."

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from sdfdiff.diffusion.losses import Recipe
from sdfdiff.diffusion.network import Architecture, ScoreNetwork
from sdfdiff.diffusion.training import train
from sdfdiff.images.training_data import TissueTrainingData

RECIPE = Recipe(steps=6, batch=4, shares=2, encoder_steps=2)


def run(accelerator, folder: Path | None = None) -> tuple[list, dict]:
    "Losses of each step, and the weights."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ScoreNetwork(Architecture(image_channels=3, width=8, multipliers=(1, 1), encoder_blocks=1))
    how = {} if folder is None else {"checkpoint": folder / "c.safetensors", "table": folder / "c.csv"}
    steps = train(network, TissueTrainingData(crop=32), RECIPE, dtype=torch.float32, accelerator=accelerator, **how)
    losses = [[step.loss, step.estimate_loss] for step in steps]
    return losses, {name: one.clone().contiguous() for name, one in network.state_dict().items()}


if __name__ == "__main__":
    from accelerate import Accelerator

    accelerator, folder = Accelerator(cpu=True), Path(sys.argv[1])
    losses, weights = run(accelerator, folder)
    found = weights | {"losses": torch.tensor(losses)}
    save_file(found, folder / f"{accelerator.process_index}-of-{accelerator.num_processes}.safetensors")
