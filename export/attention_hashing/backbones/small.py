"""ResNet-18 for small images; it has no pretrained weights.

Layers: He et al., "Deep Residual Learning" (CVPR 2016). The stem is a 3 x 3 convolution of stride 1
without max-pooling, as is usual for the 32 pixels of CIFAR-10, which leaves a map of 4 x 4.
"""

from torch import Tensor, nn

_WIDTHS = (64, 128, 256, 512)


class _Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.shortcut(x)).relu()


class ResNet18Small(nn.Module):
    """Image to feature map, for images of 32 to 64 pixels.

    Input: float32 (B, 3, H, W), values (rgb - mean) / std with the two numbers below; H and W are
    multiples of 8. Output: float32 (B, 512, H / 8, W / 8), not negative.
    """

    channels = 512
    stride = 8
    # Mid-grey, and about the deviation of photographs.
    mean = 127.5
    std = 63.75

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        stages, width = [], _WIDTHS[0]
        for stage, outputs in enumerate(_WIDTHS):
            stride = 1 if stage == 0 else 2
            stages.append(
                nn.Sequential(_Block(width, outputs, stride), _Block(outputs, outputs, 1))
            )
            width = outputs
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 512, H / 8, W / 8)."""
        return self.stages(self.bn1(self.conv1(x)).relu())
