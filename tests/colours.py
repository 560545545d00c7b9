"""A network made by hand that sees red, green and blue things, and scenes with such things."""

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from attention_hashing.attention import AttentionBranch
from attention_hashing.deployment import onnx_file
from attention_hashing.network import AttentionHashing
from bitgaze import Contract
from bitgaze.encoding.images import Preprocess
from bitgaze.encoding.looks import LookRule

SIZE, CELL = 96, 16
RULE = LookRule()
CONTRACT = Contract("colours", 32, Preprocess(SIZE), "none", looks=RULE)


class Colours(nn.Module):
    """A map of three channels: how red, green and blue each cell is, compared with the others."""

    channels, mean, std = 3, 127.0, 128.0

    def __init__(self):
        super().__init__()
        weight = 1.5 * torch.eye(3) - 0.5
        self.conv = nn.Conv2d(3, 3, CELL, CELL, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(weight[:, :, None, None].expand(3, 3, CELL, CELL) / CELL**2)

    def forward(self, x):
        return self.conv(x).relu()


def write_models(folder: Path) -> None:
    """Write `looks.onnx`, and `plain.onnx` of the same network, without maps to look by."""
    torch.manual_seed(0)
    branch = AttentionBranch.from_classifier(40 * torch.eye(3), torch.zeros(3))
    network = AttentionHashing(Colours(), branch, CONTRACT.bits).eval()
    image = folder / "a.png"
    scene({"red": (0.1, 0.1, 0.4, 0.4)}).save(image)
    for name, contract in (("looks", CONTRACT), ("plain", replace(CONTRACT, looks=None))):
        onnx_file.write_model(network, contract, [image], folder / f"{name}.onnx")
    image.unlink()


def scene(objects, size=(480, 480)):
    """Rectangles on grey, by colour, in [0, 1] of the image."""
    image = Image.new("RGB", size, (127, 127, 127))
    for colour, box in objects.items():
        pixels = [round(place * size[i % 2]) for i, place in enumerate(box)]
        image.paste(colour, tuple(pixels))
    return image
