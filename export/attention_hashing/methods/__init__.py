"""Hashing losses by name, for `train.py --method`.

Each is a `Method`: constructed from (classes, bits, seed), called as `loss(hash, labels, step)`.
Codes that need no training are in experiments/baselines.py.
"""

from attention_hashing.methods.centres import (
    CSQ,
    DPN,
    MDSH,
    OrthoHash,
    OrthoHashSupplement,
    Splits,
)
from attention_hashing.methods.greedy import GreedyHash
from attention_hashing.methods.method import Method
from attention_hashing.methods.pairwise import DCH, DPSH, DSH, DTSH, HashNet

__all__ = ["DEFAULT", "DEFAULT_OF_SEVERAL", "METHODS", "Method", "default", "present_name"]

METHODS: dict[str, type[Method]] = {
    "splits": Splits,
    "dsh": DSH,
    "dpsh": DPSH,
    "dtsh": DTSH,
    "hashnet": HashNet,
    "dch": DCH,
    "greedyhash": GreedyHash,
    "csq": CSQ,
    "dpn": DPN,
    "orthohash": OrthoHash,
    "orthohash-supplement": OrthoHashSupplement,
    "mdsh": MDSH,
}
# The best on held-out training images (docs/lab-notes.md, "A default for each kind of labels").
DEFAULT = "splits"
DEFAULT_OF_SEVERAL = "hashnet"
_FORMER_NAMES = {"ours": "orthohash-supplement"}


def default(several_labels: bool) -> str:
    """The default method.

    Args:
        several_labels: whether an image may have several. Then targets of classes do not say how
            alike two images are, as pairs do.
    """
    return DEFAULT_OF_SEVERAL if several_labels else DEFAULT


def present_name(name: str) -> str:
    """The present name of a method, from a name stored in a file."""
    return _FORMER_NAMES.get(name, name)
