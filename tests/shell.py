"What the tests of the commands share: a place to work in, a line to type, and what was said."

import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from small_networks import random_network

from sdfdiff.command import main
from sdfdiff.diffusion import fitting
from sdfdiff.diffusion.model import Model, save_weights
from sdfdiff.diffusion.network import Architecture
from sdfdiff.images.preparation import NUCLEI
from sdfdiff.images.synthetic import tissue

QUICK = ("--members", "2", "--sampler", "dpm_sde", "--steps", "2")


@cache
def tiny(preparation=NUCLEI):
    "A small network with random weights: what it finds does not matter here."
    channels = 3 if preparation.colour == "rgb" else 1
    return Model(random_network(channels), preparation=preparation, about={"name": "tiny"})


@cache
def picture():
    return np.round(tissue(3, (48, 64)).image * 255).astype(np.uint8)


def furnish(folder, monkeypatch):
    "A folder to work in, with an image and weights."
    monkeypatch.chdir(folder)
    Image.fromarray(picture()).save("photo.png")
    save_weights("tiny.safetensors", tiny())
    return folder


def typist(capsys):
    "Type a command; get exit code, what was printed, and the sentences among the progress bars."

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = stop.code
        shown = capsys.readouterr()
        return code, shown.out, sentences(shown.err)

    return run


def train_small(monkeypatch):
    "Train a small network on small crops; all else is as shipped."
    for name in ("tissue", "folder"):
        setting = fitting.SETTINGS[name]
        network = Architecture(3, width=16, multipliers=(1, 2), encoder_blocks=1)
        changed = replace(setting, architecture=network, crop=32, recipe=replace(setting.recipe, batch=2))
        monkeypatch.setitem(fitting.SETTINGS, name, changed)


def sentences(text):
    "The lines on standard error that are no progress bar; that these pictures are small, and do not say how, is known."
    lines = [line.strip() for line in re.split(r"[\r\n]", text)]
    known = (
        r"\d+%\||it/s|\?(image|member|step|call|piece|case)/s|network sees little|no pixel size in the file: assumed"
    )
    return [line for line in lines if line and not re.search(known, line)]


def files(folder="."):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def command(code, *words, **options):
    "A Python of its own. Ctrl-C works there even if this one was started in the background."
    code = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + textwrap.dedent(code)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], **pipes, **options)


def refused(outcome, *words, code=1):
    "One sentence that names what is wrong, and nothing else."
    found, _, lines = outcome
    assert found == code and len(lines) == 1, outcome
    sentence = lines[0]
    assert sentence.startswith("sdfdiff: ") and sentence[-1] in ".?" and sentence.count("sdfdiff: ") == 1
    assert not [word for word in words if word not in sentence], sentence
    assert not re.search(r"Traceback|Error\(|Errno|=True|\.writing-", sentence), sentence
    return True


def no_work(*arguments, **options):
    raise AssertionError("work began")
