"""A trained attention branch in its own file, to guide other networks with the same backbone."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from attention_hashing import torch_file
from attention_hashing.attention import AttentionBranch
from attention_hashing.network import AttentionHashing

BRANCH = "branch.pt"
_ENTRIES = {
    "backbone": str,
    "channels": int,
    "classes": list,
    "hidden": int,
    "several_labels": bool,
    "branch": dict,
}


@dataclass(frozen=True)
class StoredBranch:
    """A trained branch and its context.

    Attributes:
        branch: the module, in evaluation mode.
        backbone: name of the backbone that it was trained on.
        classes: names, in the order of its class maps.
    """

    branch: AttentionBranch
    backbone: str
    classes: tuple[str, ...]

    def digest(self) -> str:
        """SHA-256 of the branch and its context, as 64 hex digits."""
        several = ["several labels"] if self.branch.has_several else []
        digest = hashlib.sha256(json.dumps([self.backbone, self.classes, *several]).encode())
        for name, tensor in self.branch.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check(self, network: AttentionHashing, backbone: str, classes: tuple[str, ...]) -> None:
        """Check that the branch can guide a network.

        The stride may differ: class maps have the resolution of the features.

        Args:
            network: whose own branch this one is to replace.
            backbone: name of the network's backbone.
            classes: of the images to train on.

        Raises:
            ValueError: names what differs.
        """
        found, expected = self.branch.channels, network.branch.channels
        if (self.backbone, found) != (backbone, expected):
            raise ValueError(
                f"the branch was trained on {self.backbone} ({found} channels), expected "
                f"{backbone} ({expected}); use the same --backbone, or omit --branch"
            )
        if self.branch.hidden != network.branch.hidden:
            raise ValueError(
                f"the branch has {self.branch.hidden} hidden channels, expected "
                f"{network.branch.hidden} as in the configuration"
            )
        if self.branch.has_several != network.branch.has_several:
            raise ValueError(
                f"the branch was trained on images with {_labels(self.branch)}, but these have "
                f"{_labels(network.branch)}; omit --branch"
            )
        if self.classes != classes:
            raise ValueError(
                f"the branch was trained on {_few(self.classes)}, but the images have "
                f"{_few(classes)}; use the same classes, or omit --branch"
            )


def save_branch(
    network: AttentionHashing, path: Path, classes: tuple[str, ...], backbone: str
) -> None:
    """Write the branch of a trained network.

    Args:
        network: trained.
        path: of the file, which is replaced atomically.
        classes: names, in the order of the labels that it was trained with.
        backbone: name of its backbone.
    """
    branch = network.branch
    state = {
        "backbone": backbone,
        "channels": branch.channels,
        "classes": list(classes),
        "hidden": branch.hidden,
        "several_labels": branch.has_several,
        "branch": branch.state_dict(),
    }
    torch_file.save(state, path)


def load_branch(path: Path) -> StoredBranch:
    """Read what `save_branch` wrote.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a branch of train.py.
    """
    state = torch_file.load(path, "branch")
    state.setdefault("several_labels", False)  # older files: between classes, whatever the labels
    torch_file.check_entries(state, _ENTRIES, path, "branch")
    branch = AttentionBranch(
        state["channels"], len(state["classes"]), state["hidden"], state["several_labels"]
    )
    torch_file.load_weights(branch, state["branch"], path, "description")
    return StoredBranch(branch.eval(), state["backbone"], tuple(state["classes"]))


def _labels(branch: AttentionBranch) -> str:
    return "several labels" if branch.has_several else "one label each"


def _few(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:5])
    return f"{len(classes)} classes ({shown}{', ...' if len(classes) > 5 else ''})"
