"""Writes a model file in onnxruntime's own format, for its small builds on phones and boards."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from attention_hashing.deployment.onnx_file import ExportError
from bitgaze import Encoder
from bitgaze.encoding.contract import METADATA_KEY
from bitgaze.encoding.images import load

SUFFIX = ".ort"


def write_ort(encoder: Encoder, out: Path) -> None:
    """Write a model in .ort format, optimised for any processor, with its contract.

    Args:
        encoder: of the .onnx file.
        out: the .ort file.

    Raises:
        ExportError: the new file lacks the contract, or a bit of a golden example differs whose
            value is farther from 0 than the contract's tolerance.
    """
    options = _quiet()
    draft = out.with_name(f".{out.name}.draft")
    options.optimized_model_filepath = str(draft)
    options.add_session_config_entry("session.save_model_format", "ORT")
    # Keep signed activations signed: processors that they are made for expect that.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    try:
        # The disabled optimiser arranges weights for the processor of this machine.
        ort.InferenceSession(
            encoder.model.path,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["NchwcTransformer"],
        )
        _check(encoder, draft)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def _check(encoder: Encoder, path: Path) -> None:
    options = _quiet()
    options.add_session_config_entry("session.load_model_format", "ORT")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    contract = encoder.contract
    if session.get_modelmeta().custom_metadata_map.get(METADATA_KEY) != contract.to_json():
        raise ExportError(f"{path.name}: the contract is missing from the model")
    for golden in contract.golden:
        pixels = load(golden.png, contract.preprocess)
        code, values = session.run(["code", "hash"], {"image": pixels[None]})
        differs = np.unpackbits(code[0]) != np.unpackbits(np.frombuffer(golden.code, np.uint8))
        if (differs & (np.abs(values[0]) > contract.tolerance)).any():
            raise ExportError(f"{path.name}: {int(differs.sum())} bits differ from the .onnx file")


def _quiet() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options
