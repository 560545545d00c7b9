"""Backbones by name, for `train.py --backbone`.

Each has `channels`, `stride`, and `mean` and `std` of values in 0..255 (numbers, or tensors of
shape (3, 1, 1)), and maps float32 (B, 3, H, W) to (B, channels, H / stride, W / stride).
"""

from collections.abc import Iterable

from torch import Tensor, nn

from attention_hashing.backbones import lite, packages
from attention_hashing.backbones.small import ResNet18Small

DEFAULT = "efficientnet-lite0"
_LITES = {f"efficientnet-lite{version}": version for version in range(4)}
_SMALL = "resnet18-small"
# The names that `backbone` accepts, for messages.
NAMES = (*_LITES, _SMALL, "timm:NAME", "torchvision:NAME")


def strides(name: str) -> tuple[int, ...]:
    """The strides that a backbone supports, in pixels per position of the map; the default first.

    Raises:
        ValueError: there is no backbone of this name.
    """
    if name in _LITES:
        return (32, 16)
    if name == _SMALL:
        return (ResNet18Small.stride,)
    package, _, rest = name.partition(":")
    if rest and package in ("timm", "torchvision"):
        return (32, 16, 8) if package == "timm" else (32,)
    raise ValueError(f"backbone is {name!r}, expected one of {', '.join(NAMES)}")


def check_stride(name: str, stride: int) -> None:
    """Raise a ValueError if there is no such backbone, or if it does not support this stride."""
    if stride not in (known := strides(name)):
        raise ValueError(f"stride is {stride}, expected {_either(known)} for {name}")


def backbone(name: str, pretrained: bool = True, stride: int | None = None) -> nn.Module:
    """Construct a backbone, in training mode.

    Args:
        name: one of NAMES, where NAME is timm's or torchvision's name of the network.
        pretrained: whether to load the published weights. resnet18-small has none, and is random
            either way.
        stride: one of `strides`; None for the default.

    Raises:
        ValueError: the name or the stride is unknown, or a required package is not installed.
    """
    stride = strides(name)[0] if stride is None else stride
    check_stride(name, stride)
    if name in _LITES:
        version = _LITES[name]
        if pretrained:
            return lite.pretrained(version, stride)[0]
        return lite.EfficientNetLite(version, stride)
    if name == _SMALL:
        return ResNet18Small()
    package, _, rest = name.partition(":")
    if package == "timm":
        found = packages.from_timm(rest, pretrained, stride)
    else:
        found = packages.from_torchvision(rest, pretrained)
    if found.stride != stride:
        raise ValueError(f"{name} has stride {found.stride}, expected {stride}")
    return found


def has_published_weights(name: str) -> bool:
    """Whether `backbone` can return one that is already trained.

    Raises:
        ValueError: there is no backbone of this name.
    """
    strides(name)
    return name != _SMALL


def with_classifier(name: str = DEFAULT) -> tuple[lite.EfficientNetLite, Tensor, Tensor]:
    """An EfficientNet-Lite with its ImageNet classifier: weight (1000, 1280), bias (1000,)."""
    return lite.pretrained(_LITES[name])


def described(name: str) -> str:
    """The description of a backbone in a model file."""
    if name in _LITES:
        return f"EfficientNet-Lite{_LITES[name]}, ImageNet-1k"
    if name == _SMALL:
        return "ResNet-18 for small images, from scratch"
    return f"{name}, its pretrained weights"


def licence(name: str) -> str:
    """The licence of a backbone's weights, for a model file."""
    if name in _LITES:
        return "backbone Apache-2.0"
    if name == _SMALL:
        return "backbone trained from scratch"
    return f"backbone as {name} is published"


def _either(numbers: Iterable[int]) -> str:
    return " or ".join(map(str, numbers))
