"""Every exception class of bitgaze. Imports nothing of it.

Wrong arguments raise TypeError or ValueError, as everywhere in Python. These classes cover what a
correct program can run into: a broken image, a foreign model, a missing provider, a damaged file.
"""

from collections.abc import Sequence
from typing import Any


class BitgazeError(Exception):
    """Base class of the exceptions that bitgaze defines."""


class ImageError(BitgazeError):
    """An image that cannot be used: unreadable, truncated or too large."""


class ModelError(BitgazeError):
    """A file that is not a bitgaze model, or a model that breaks its contract."""


class ProviderError(BitgazeError):
    """An execution provider was requested by name but cannot run the model."""


class ProviderWarning(UserWarning):
    """`providers="auto"` or a device policy skipped a provider that could have been used."""


class WhereError(BitgazeError, ValueError):
    """A condition on a field that no item has, or on values of another type than all it has."""


class GalleryError(BitgazeError):
    """A gallery file that cannot be opened or written."""


class FingerprintMismatch(GalleryError):
    """Codes of one model were about to be compared with codes of another."""


class GalleryCorrupt(GalleryError):
    """A gallery file whose contents are damaged or inconsistent."""


class InterchangeError(BitgazeError):
    """A file of another engine that cannot be written or read, or an engine not installed."""


class WordError(BitgazeError):
    """Words to search for that the gallery's model does not know."""


class ClusterError(BitgazeError):
    """A cluster, or a folder of shards, that cannot do what was asked of it."""


class PartialResult(ClusterError):
    """Shards of a `ShardedGallery` did not answer in time.

    `missing` has the files of these shards, `hits` what the others have found.
    """

    def __init__(self, message: str, missing: Sequence[str], hits: Sequence[Any]) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.hits = list(hits)

    def __reduce__(self) -> tuple[Any, ...]:
        return PartialResult, (str(self), self.missing, self.hits)
