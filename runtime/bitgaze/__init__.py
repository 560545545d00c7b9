"""Find images that look like an image, on the device that holds them.

Everything public is here; see `Gallery` first. Names are loaded when first used: `import bitgaze`
takes neither onnxruntime nor Pillow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitgaze.contract import Contract as Contract
    from bitgaze.duplicates import Duplicate as Duplicate
    from bitgaze.duplicates import DuplicateGroup as DuplicateGroup
    from bitgaze.encoder import Encoded as Encoded
    from bitgaze.encoder import Encoder as Encoder
    from bitgaze.errors import BitgazeError as BitgazeError
    from bitgaze.errors import FingerprintMismatch as FingerprintMismatch
    from bitgaze.errors import GalleryCorrupt as GalleryCorrupt
    from bitgaze.errors import GalleryError as GalleryError
    from bitgaze.errors import ImageError as ImageError
    from bitgaze.errors import ModelError as ModelError
    from bitgaze.errors import ProviderError as ProviderError
    from bitgaze.errors import ProviderWarning as ProviderWarning
    from bitgaze.gallery import Gallery as Gallery
    from bitgaze.hamming import HammingIndex as HammingIndex
    from bitgaze.hamming import simd as simd
    from bitgaze.items import Item as Item
    from bitgaze.maintenance import GalleryVerification as GalleryVerification
    from bitgaze.maintenance import RepairReport as RepairReport
    from bitgaze.maintenance import repair as repair
    from bitgaze.maintenance import verify_gallery as verify_gallery
    from bitgaze.providers import ProviderReport as ProviderReport
    from bitgaze.providers import register_provider as register_provider
    from bitgaze.searching import Hit as Hit
    from bitgaze.sync_report import SyncReport as SyncReport
    from bitgaze.verification import Verification as Verification
    from bitgaze.verification import verify as verify

_HOME = {
    "BitgazeError": "errors",
    "Contract": "contract",
    "Duplicate": "duplicates",
    "DuplicateGroup": "duplicates",
    "Encoded": "encoder",
    "Encoder": "encoder",
    "FingerprintMismatch": "errors",
    "Gallery": "gallery",
    "GalleryCorrupt": "errors",
    "GalleryError": "errors",
    "GalleryVerification": "maintenance",
    "HammingIndex": "hamming",
    "Hit": "searching",
    "ImageError": "errors",
    "Item": "items",
    "ModelError": "errors",
    "ProviderError": "errors",
    "ProviderReport": "providers",
    "ProviderWarning": "errors",
    "RepairReport": "maintenance",
    "SyncReport": "sync_report",
    "Verification": "verification",
    "register_provider": "providers",
    "repair": "maintenance",
    "simd": "hamming",
    "verify": "verification",
    "verify_gallery": "maintenance",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bitgaze")
    if name not in _HOME:
        raise AttributeError(f"module 'bitgaze' has no attribute {name!r}")
    return getattr(import_module(f"bitgaze.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
