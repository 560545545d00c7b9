"""A cluster: encode images, search codes and serve galleries on many machines, with Ray.

Requires the extra `ray` (`pip install 'bitgaze[ray]'`). Ray reports no usage statistics, unless the
environment variable RAY_USAGE_STATS_ENABLED is 1. All machines see the same files under the same
paths.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitgaze.distributed.encoding import EncodeReport as EncodeReport
    from bitgaze.distributed.encoding import encode as encode
    from bitgaze.distributed.output import refused as refused
    from bitgaze.distributed.querying import search as search
    from bitgaze.distributed.sharded import ShardedGallery as ShardedGallery
    from bitgaze.distributed.sharded import ShardedHits as ShardedHits
    from bitgaze.errors import PartialResult as PartialResult

_MODULES = {
    "EncodeReport": "distributed.encoding",
    "PartialResult": "errors",
    "ShardedGallery": "distributed.sharded",
    "ShardedHits": "distributed.sharded",
    "encode": "distributed.encoding",
    "refused": "distributed.output",
    "search": "distributed.querying",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'bitgaze.distributed' has no attribute {name!r}")
    return getattr(import_module(f"bitgaze.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
