"""Hashing methods by name: what `train.py --method` trains with. Knows no formula.

Each is a `Method`: made from (classes, bits, seed), called as `loss(hash, labels, step)`. What
takes no training is in experiments/baselines.py.
"""

from attention_hashing.methods.centres import CSQ, DPN, MDSH, OrthoHash, Ours
from attention_hashing.methods.greedy import GreedyHash
from attention_hashing.methods.method import Method
from attention_hashing.methods.pairwise import DCH, DPSH, DSH, DTSH, HashNet

__all__ = ["DEFAULT", "METHODS", "Method"]

METHODS: dict[str, type[Method]] = {
    "ours": Ours,
    "dsh": DSH,
    "dpsh": DPSH,
    "dtsh": DTSH,
    "hashnet": HashNet,
    "dch": DCH,
    "greedyhash": GreedyHash,
    "csq": CSQ,
    "dpn": DPN,
    "orthohash": OrthoHash,
    "mdsh": MDSH,
}
DEFAULT = "ours"
