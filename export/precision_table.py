"""Measure what reduced precision costs the general model, and what it saves.

    python export/precision_table.py IMAGES FOLDER

Makes the model in float16 and in 8-bit integers for each target, calibrated on IMAGES, and compares
each with float32 on 3,000 images of FOLDER, which contains one folder per class; 1,000 are queries.
No model is refused, and none is kept. Writes a section of docs/results.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

import to_onnx
from attention_hashing.data.folders import images_below
from attention_hashing.data.labelled import read
from attention_hashing.deployment import fidelity, onnx_file, quantize, reduced_precision
from attention_hashing.experiments.results import write_section
from bitgaze import BitgazeError

_IMAGES, _QUERIES = 3000, 1000


def main() -> int:
    """Parse arguments, make each model, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    network, contract = to_onnx.general_model()
    try:
        pixels = reduced_precision.calibration_pixels(images_below(arguments.images), contract)
        data = read(arguments.folder)
    except (BitgazeError, ValueError) as error:
        print(f"precision_table.py: {error}", file=sys.stderr)
        return 2
    order = np.random.default_rng(0).permutation(len(data))[:_IMAGES]
    data = data.subset(order)
    queries = np.arange(min(_QUERIES, len(data)))
    deployed, model = onnx_file.graph(network, contract)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        makers = {
            "fp16": lambda: reduced_precision.fp16(model),
            **{
                f"int8, {target}": lambda target=target: quantize.int8(
                    model, deployed, pixels, target
                )
                for target in quantize.TARGETS
            },
        }
        made = {name: make() for name, make in tqdm(makers.items(), disable=None)}
        onnx_file.store_as_float16(model)
        reference = onnx_file.save(model, contract, Path(folder) / "float32.onnx")
        expected = fidelity.encoded(reference, data)
        for name, graph in tqdm(made.items(), disable=None):
            onnx_file.store_as_float16(graph)
            encoder = onnx_file.save(graph, contract, Path(folder) / "smaller.onnx")
            found = fidelity.compare(reference, expected, encoder, data, queries)
            if not rows:
                rows.append(
                    [
                        "fp32",
                        "",
                        "",
                        f"{found.precision[0]:.4f}",
                        f"{found.megabytes[0]:.2f}",
                        f"{found.speed[0]:.0f}",
                        "",
                        "",
                    ]
                )
            rows.append(
                [
                    name,
                    f"{found.flips:.2%}",
                    f"{found.clear_flips:.2%}",
                    f"{found.precision[1]:.4f}",
                    f"{found.megabytes[1]:.2f}",
                    f"{found.speed[1]:.0f}",
                    f"{found.speed[1] / found.speed[0]:.2f}",
                    f"{found.attention:.4f}",
                ]
            )
    text = (
        f"The general model in reduced precision and in float32, on {len(data):,} images of "
        f"{len(data.classes)} classes, {len(queries):,} of which are queries among the others; "
        f"calibrated on {len(pixels)} photographs. The float32 value of a clear bit is farther "
        "from 0 than a tenth of its standard deviation. Images per second of processor time, on "
        "one thread, one image at a time, without decoding, alternating with float32. All targets "
        "ran on this processor."
    )
    head = [
        "arithmetic",
        "bits flipped",
        "clear bits flipped",
        "mAP",
        "MB",
        "images/s",
        "x float32",
        "attention, mean difference",
    ]
    write_section("precision_table.py", "Precision", text, head, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
