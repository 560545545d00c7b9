"""A float network's graph to one that computes in float16, for processors that do so natively.

Convolutions only: the normalisation of the input, the attention and the hash layer stay float32.
"""

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from attention_hashing.quantize import convolutional_nodes


def fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its convolutions in float16.

    Args:
        model: float32, batch normalisation folded.
    """
    halved = {node.name for node in convolutional_nodes(model)}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    half = convert_float_to_float16(
        copy,
        keep_io_types=True,
        op_block_list=[],
        node_block_list=[node.name for node in model.graph.node if node.name not in halved],
    )
    sorted_model = ONNXModel(half)
    sorted_model.topological_sort()  # its casts stand at the end
    return sorted_model.model
