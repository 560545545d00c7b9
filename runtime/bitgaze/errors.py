"""Every error that bitgaze raises of its own. Imports nothing.

Wrong arguments are TypeError and ValueError, as everywhere in Python; these classes are for what a
correct program can meet: a broken image, a foreign model, an absent provider, a damaged file.
"""


class BitgazeError(Exception):
    """Base of every error that bitgaze raises of its own."""


class ImageError(BitgazeError):
    """An image that cannot be used: unreadable, truncated or too large."""


class ModelError(BitgazeError):
    """A file that is not a bitgaze model, or breaks its contract."""


class ProviderError(BitgazeError):
    """An execution provider was asked for by name and does not run."""


class ProviderWarning(UserWarning):
    """With `providers="auto"`, or a policy: an execution provider that might run does not."""


class GalleryError(BitgazeError):
    """A gallery file that cannot be opened or written."""


class FingerprintMismatch(GalleryError):
    """Codes of one model were about to meet codes of another."""


class GalleryCorrupt(GalleryError):
    """A gallery file whose contents contradict themselves."""
