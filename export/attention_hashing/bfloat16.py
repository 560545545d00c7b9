"""Whether bfloat16 trains faster than float32."""

import torch


def fast_precision(device: torch.device, backbone: str) -> str:
    """The precision in which a device trains a backbone faster.

    That is bfloat16 on a GPU, and on a processor with bfloat16 instructions if the backbone's
    convolutions are dense. Seconds for forward and backward of a batch, on one core of an AMD EPYC
    with avx512_bf16: resnet18-small, 32 images of 32 px, 1.00 in float32 and 0.54 in bfloat16;
    efficientnet-lite0, whose convolutions are mostly depthwise, 16 images of 128 px, 0.32 and 0.46.
    Backbones of other packages were not measured, and use float32, for which they were made.
    """
    if device.type == "cuda":
        return "bfloat16"
    is_fast = device.type == "cpu" and multiplies_bfloat16()
    return "bfloat16" if is_fast and backbone == "resnet18-small" else "float32"


def multiplies_bfloat16() -> bool:
    """Whether the processor has bfloat16 instructions; without them float32 is faster."""
    can = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older versions of torch
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
