"""What a sync did. Knows nothing of how."""

from dataclasses import dataclass, field

KEY_TAKEN = "the gallery holds another item under this key"


@dataclass
class SyncReport:
    """What a sync did, or after a dry run would do. Every list is of paths as text, in order.

    Attributes:
        added: new images.
        updated: images whose content had changed.
        moved: (old, new) where an image was renamed, its item with it; found by content, not
            encoded again.
        removed: images that are no longer there, under any name.
        unchanged: how many were left alone.
        failed: path to reason, of what could not be read. An image that the gallery held before
            keeps its old code; the next sync tries again.
        skipped: path to reason, of links to what was looked at already.
        excluded: how many items were left alone because their images are hidden, or the patterns
            leave them out.
    """

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    excluded: int = 0
