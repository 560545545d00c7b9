"""Every exception class of bitgaze. Imports nothing.

Wrong arguments raise TypeError or ValueError, as everywhere in Python. These classes cover what a
correct program can run into: a broken image, a foreign model, a missing provider, a damaged file.
"""


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
