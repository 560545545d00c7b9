"""Backbones of timm and torchvision, which are imported on demand."""

import importlib
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_PROBE_SIDE = 64  # pixels; a multiple of every stride


class Packaged(nn.Module):
    """A network of another package, without its pooling and classifier.

    Input: float32 (B, 3, H, W), values (rgb - mean) / std; H and W are multiples of the stride.
    Output: float32 (B, channels, H / stride, W / stride).

    Args:
        body: maps an image to a feature map.
        mean: of red, green and blue, in [0, 1].
        std: of red, green and blue, in the same unit.
        name: for errors.

    Raises:
        ValueError: the body accepts one size only, or does not return a feature map (but, for
            example, a vision transformer's tokens).
    """

    def __init__(
        self, body: nn.Module, mean: Sequence[float], std: Sequence[float], name: str
    ) -> None:
        super().__init__()
        self.body = body
        for statistic, values in (("mean", mean), ("std", std)):
            tensor = 255 * torch.tensor(values)[:, None, None]  # (3, 1, 1), of 0..255
            self.register_buffer(statistic, tensor, persistent=False)
        was_training = body.training
        try:
            with torch.no_grad():
                found = body.eval()(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(
                f"{name} does not accept an image of {_PROBE_SIDE} pixels: {error}; "
                "use a convolutional network"
            ) from error
        body.train(was_training)
        shape = tuple(found.shape) if isinstance(found, Tensor) else ()
        if len(shape) != 4 or shape[2] != shape[3] or _PROBE_SIDE % shape[2]:
            raise ValueError(
                f"{name} returns {shape or type(found).__name__} for an image of {_PROBE_SIDE} "
                "pixels, expected a feature map (1, channels, h, h); use a convolutional network"
            )
        self.channels = int(shape[1])
        self.stride = _PROBE_SIDE // int(shape[2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, channels, H / stride, W / stride)."""
        return self.body(x)


class _Features(nn.Module):
    """A timm model without its pooling and classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_features(x)


def from_timm(name: str, pretrained: bool, stride: int) -> Packaged:
    """A timm model; a stride below 32 is passed as `output_stride`.

    Raises:
        ValueError: timm is not installed or does not know the name, or the model returns no
            feature map.
    """
    timm = _package("timm", f"timm:{name}")
    options = {} if stride == 32 else {"output_stride": stride}
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"timm:{name} cannot be constructed with stride {stride}: {error}"
        ) from error
    data = timm.data.resolve_model_data_config(model)
    return Packaged(_Features(model), data["mean"], data["std"], f"timm:{name}")


def from_torchvision(name: str, pretrained: bool) -> Packaged:
    """A torchvision classifier: its `features`, or a ResNet's layers before the pooling.

    Raises:
        ValueError: torchvision is not installed or does not know the name, or the network has
            neither of these structures.
    """
    models = _package("torchvision", f"torchvision:{name}").models
    try:
        model = models.get_model(name, weights="DEFAULT" if pretrained else None)
    except ValueError as error:
        raise ValueError(f"torchvision:{name} cannot be constructed: {error}") from error
    if hasattr(model, "features"):
        body = model.features
    elif hasattr(model, "layer4"):
        parts = dict(model.named_children())
        body = nn.Sequential(*[part for key, part in parts.items() if key not in ("avgpool", "fc")])
    else:
        raise ValueError(
            f"torchvision:{name} has neither features nor layer4; use a convolutional classifier"
        )
    return Packaged(body, _IMAGENET_MEAN, _IMAGENET_STD, f"torchvision:{name}")


def _package(package: str, requested: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = error.name or package
        raise ValueError(
            f"{requested} requires the package {missing}: pip install {missing}"
        ) from error
