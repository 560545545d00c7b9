"""To and from the engines that people run: a gallery as their file, and their file as a gallery.

Each engine has a module, which says what its files are; galleries.py knows galleries only.
"""

import os

from bitgaze.interchange.report import Progress, Transfer

# Whether an engine's export is a folder, rather than a file.
ENGINES = {
    "faiss": True,
    "lance": True,
    "milvus": True,
    "parquet": False,
    "pgvector": True,
    "sqlite-vec": False,
    "usearch": True,
}

__all__ = ["ENGINES", "Transfer", "export_gallery", "import_gallery"]


def export_gallery(
    gallery: str | os.PathLike[str],
    engine: str,
    out: str | os.PathLike[str],
    *,
    on_progress: Progress | None = None,
) -> Transfer:
    """Write a snapshot of a gallery for another engine; others can use the gallery meanwhile.

    Keys, codes, metadata, looks with their boxes, structural codes, files, the model's fingerprint
    and an adaptation are kept in every engine, so that `import_gallery` restores the gallery.

    Args:
        gallery: its file.
        engine: "faiss", "lance", "milvus", "parquet", "pgvector", "sqlite-vec" or "usearch".
        out: what to write; must not exist. A file for Parquet and sqlite-vec, a folder for the
            others. It appears once it is complete.
        on_progress: called with (done, total) items.

    Raises:
        InterchangeError: the engine's package is missing, `out` exists or cannot be written, or the
            engine cannot hold an item.
        GalleryError: there is no such gallery, or it is damaged.
        ValueError: there is no such engine.
    """
    from bitgaze.interchange.transfer import export

    return export(gallery, _known(engine), out, ENGINES[engine], on_progress)


def import_gallery(
    source: str | os.PathLike[str],
    engine: str,
    gallery: str | os.PathLike[str],
    *,
    on_progress: Progress | None = None,
) -> Transfer:
    """Write a new gallery from what `export_gallery` has written, or from an engine's own codes.

    Own codes can be a Parquet file with the columns `key` and `code` (fixed_size_binary), or the
    file of a FAISS `IndexBinaryFlat` or a USearch index of b1 vectors.

    Args:
        source: the engine's file or folder.
        engine: as for `export_gallery`.
        gallery: the new file; must not exist. It appears once it is complete.
        on_progress: called with (done, total) items.

    Raises:
        InterchangeError: the engine's package is missing, or `source` cannot be read.
        FingerprintMismatch: Parquet files of one folder are from different models.
        GalleryError: `gallery` exists or cannot be written.
        ValueError: there is no such engine.
    """
    from bitgaze.interchange.transfer import import_

    return import_(source, _known(engine), gallery, on_progress)


def _known(engine: str) -> str:
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}, expected one of {', '.join(ENGINES)}")
    return engine
