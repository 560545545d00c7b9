"""Report: what a sync did."""

from dataclasses import dataclass, field

KEY_IN_USE = "another item in the gallery already has this key"


@dataclass
class SyncReport:
    """What a sync did or, after a dry run, would do. Paths are text, and keys of items.

    Attributes:
        added: new images.
        updated: images whose content changed.
        moved: (old path, new path) of images that were renamed, recognised by content and not
            encoded again; their items follow.
        removed: images that no longer exist under any name.
        unchanged: number of images that were already up to date.
        failed: path to reason, for what could not be read. An image that the gallery already holds
            keeps its old code, and the next sync tries again.
        unread: path to format, of images that bitgaze does not read: "HEIC", "JPEG XL" and "RAW"
            where the extra is missing that does (`bitgaze.encoding.formats.EXTRAS`), else the
            extension, such as ".psd". Items of theirs stay as they are.
        missing: folder to number of items that were kept although their images are gone, because
            the folder looks like a disk that is away; see `Gallery.sync`.
        waiting: number of new images that were not added, because their folder is in `missing`.
        skipped: path to reason, for links to folders and images found elsewhere.
        excluded: number of items left unchanged because their images are hidden, in a system folder
            or excluded by patterns; if the image is gone too, the item is removed.
        system_folders: number of system folders that were left out.
    """

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    excluded: int = 0
    system_folders: int = 0
