"""A trained attention branch as a file of its own, to guide another network of the same backbone.

Knows the file and what must agree. Does not know training.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from attention_hashing import torch_file
from attention_hashing.attention import AttentionBranch
from attention_hashing.network import AttentionHashing

BRANCH = "branch.pt"
_ENTRIES = {"backbone": str, "channels": int, "classes": list, "hidden": int, "branch": dict}


@dataclass(frozen=True)
class StoredBranch:
    """A trained branch and what it belongs to.

    Attributes:
        branch: the module, in evaluation mode.
        backbone: name of the backbone whose features it was trained on.
        classes: names, in the order of its class maps.
    """

    branch: AttentionBranch
    backbone: str
    classes: tuple[str, ...]

    def digest(self) -> str:
        """64 hex digits that tell this branch from others."""
        digest = hashlib.sha256(json.dumps([self.backbone, self.classes]).encode())
        for name, tensor in self.branch.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check(self, network: AttentionHashing, backbone: str, classes: tuple[str, ...]) -> None:
        """Whether it can guide this network.

        The stride may be another: class maps come as fine as the features.

        Args:
            network: with a branch of its own, which this one is to replace.
            backbone: the network's.
            classes: of the images to be trained on.

        Raises:
            ValueError: names what does not agree.
        """
        found, wanted = self.branch.channels, network.branch.channels
        if (self.backbone, found) != (backbone, wanted):
            raise ValueError(
                f"the branch was trained on {self.backbone} ({found} channels), expected "
                f"{backbone} ({wanted}); give the same --backbone, or leave out --branch"
            )
        if self.branch.hidden != network.branch.hidden:
            raise ValueError(
                f"the branch has {self.branch.hidden} hidden channels, expected "
                f"{network.branch.hidden}, as the configuration says"
            )
        if self.classes != classes:
            raise ValueError(
                f"the branch tells {_few(self.classes)} apart, but the images are of "
                f"{_few(classes)}; it needs the same classes, or leave out --branch"
            )


def save_branch(
    network: AttentionHashing, path: Path, classes: tuple[str, ...], backbone: str
) -> None:
    """Write the branch of a trained network.

    Args:
        network: trained.
        path: of the file, replaced as a whole.
        classes: names, in the order of the labels it was trained with.
        backbone: name of its backbone.
    """
    branch = network.branch
    state = {
        "backbone": backbone,
        "channels": branch.channels,
        "classes": list(classes),
        "hidden": branch.hidden,
        "branch": branch.state_dict(),
    }
    torch_file.save(state, path)


def load_branch(path: Path) -> StoredBranch:
    """What `save_branch` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a branch of ours.
    """
    state = torch_file.load(path, "branch")
    torch_file.check_entries(state, _ENTRIES, path, "branch")
    branch = AttentionBranch(state["channels"], len(state["classes"]), state["hidden"])
    torch_file.load_weights(branch, state["branch"], path, "description")
    return StoredBranch(branch.eval(), state["backbone"], tuple(state["classes"]))


def _few(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:5])
    return f"{len(classes)} classes ({shown}{', ...' if len(classes) > 5 else ''})"
