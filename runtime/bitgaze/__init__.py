"""On-device image search: find images that look like a given one.

Everything public is here; start with `Gallery`. Names load on first use: `import bitgaze` imports
neither onnxruntime nor Pillow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitgaze.encoding.contract import Contract as Contract
    from bitgaze.encoding.encoder import Encoded as Encoded
    from bitgaze.encoding.encoder import Encoder as Encoder
    from bitgaze.encoding.providers import ProviderReport as ProviderReport
    from bitgaze.encoding.providers import register_provider as register_provider
    from bitgaze.encoding.verification import Verification as Verification
    from bitgaze.encoding.verification import verify as verify
    from bitgaze.errors import BitgazeError as BitgazeError
    from bitgaze.errors import ClusterError as ClusterError
    from bitgaze.errors import FingerprintMismatch as FingerprintMismatch
    from bitgaze.errors import GalleryCorrupt as GalleryCorrupt
    from bitgaze.errors import GalleryError as GalleryError
    from bitgaze.errors import ImageError as ImageError
    from bitgaze.errors import InterchangeError as InterchangeError
    from bitgaze.errors import ModelError as ModelError
    from bitgaze.errors import PartialResult as PartialResult
    from bitgaze.errors import ProviderError as ProviderError
    from bitgaze.errors import ProviderWarning as ProviderWarning
    from bitgaze.errors import WhereError as WhereError
    from bitgaze.errors import WordError as WordError
    from bitgaze.gallery.duplicates import Duplicate as Duplicate
    from bitgaze.gallery.duplicates import DuplicateGroup as DuplicateGroup
    from bitgaze.gallery.flat.gallery import FlatGallery as FlatGallery
    from bitgaze.gallery.gallery import Gallery as Gallery
    from bitgaze.gallery.hits import Hit as Hit
    from bitgaze.gallery.items import Item as Item
    from bitgaze.gallery.maintenance import GalleryVerification as GalleryVerification
    from bitgaze.gallery.maintenance import RepairReport as RepairReport
    from bitgaze.gallery.maintenance import repair as repair
    from bitgaze.gallery.maintenance import verify_gallery as verify_gallery
    from bitgaze.gallery.query import Query as Query
    from bitgaze.gallery.sync.report import SyncReport as SyncReport
    from bitgaze.gallery.words import WordHit as WordHit
    from bitgaze.hamming import HammingIndex as HammingIndex
    from bitgaze.hamming import simd as simd
    from bitgaze.views import ViewIndex as ViewIndex

_MODULES = {
    "BitgazeError": "errors",
    "ClusterError": "errors",
    "Contract": "encoding.contract",
    "Duplicate": "gallery.duplicates",
    "DuplicateGroup": "gallery.duplicates",
    "Encoded": "encoding.encoder",
    "Encoder": "encoding.encoder",
    "FingerprintMismatch": "errors",
    "FlatGallery": "gallery.flat.gallery",
    "Gallery": "gallery.gallery",
    "GalleryCorrupt": "errors",
    "GalleryError": "errors",
    "GalleryVerification": "gallery.maintenance",
    "HammingIndex": "hamming",
    "Hit": "gallery.hits",
    "ImageError": "errors",
    "InterchangeError": "errors",
    "Item": "gallery.items",
    "ModelError": "errors",
    "PartialResult": "errors",
    "ProviderError": "errors",
    "ProviderReport": "encoding.providers",
    "ProviderWarning": "errors",
    "Query": "gallery.query",
    "RepairReport": "gallery.maintenance",
    "SyncReport": "gallery.sync.report",
    "Verification": "encoding.verification",
    "ViewIndex": "views",
    "WhereError": "errors",
    "WordError": "errors",
    "WordHit": "gallery.words",
    "register_provider": "encoding.providers",
    "repair": "gallery.maintenance",
    "simd": "hamming",
    "verify": "encoding.verification",
    "verify_gallery": "gallery.maintenance",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bitgaze")
    if name not in _MODULES:
        raise AttributeError(f"module 'bitgaze' has no attribute {name!r}")
    return getattr(import_module(f"bitgaze.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
