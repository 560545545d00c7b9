"""Where bfloat16 trains faster than float32."""

import torch


def fast_precision(device: torch.device, backbone: str) -> str:
    """What a device trains a backbone faster in.

    bfloat16 on a GPU, and on a processor that multiplies such numbers itself, where the backbone's
    convolutions are dense. Forward and backward of a batch, one core of an AMD EPYC with
    avx512_bf16, in seconds: resnet18-small, 32 images of 32 px, 1.00 in float32 and 0.54 in
    bfloat16; efficientnet-lite0, whose convolutions are mostly depthwise, 16 of 128 px, 0.32 and
    0.46. Backbones of other packages are not known; float32 is what they were made for.
    """
    if device.type == "cuda":
        return "bfloat16"
    is_fast = device.type == "cpu" and multiplies_bfloat16()
    return "bfloat16" if is_fast and backbone == "resnet18-small" else "float32"


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it; in others it is slower than float32."""
    can = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
