import numpy as np
from numpy.typing import NDArray

BLOCK_CODES: int
GROUP_ITEMS: int
KERNELS: list[str]

class MultiIndex:
    def __init__(
        self, codes: NDArray[np.uint8] | NDArray[np.uint64], count: int, threads: int
    ) -> None: ...
    @property
    def bytes(self) -> int: ...

class Request:
    def __init__(
        self,
        codes: NDArray[np.uint8] | NDArray[np.uint64],
        count: int,
        queries: NDArray[np.uint8],
        *,
        k: int,
        radius: int,
        filter: NDArray[np.uint8] | None = None,
        exclude: NDArray[np.int64] | None = None,
        threads: int = 1,
        kernel: str | None = None,
        tables: MultiIndex | None = None,
        covered: int = 0,
        changed: NDArray[np.int64] | None = None,
        forced: bool = False,
    ) -> None: ...

class ViewRequest:
    def __init__(
        self,
        groups: NDArray[np.uint16],
        count: int,
        queries: NDArray[np.uint8],
        *,
        k: int,
        radius: int,
        filter: NDArray[np.uint8] | None = None,
        exclude: NDArray[np.int64] | None = None,
        threads: int = 1,
        kernel: str | None = None,
    ) -> None: ...

def nearest(
    request: Request | ViewRequest, columns: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]: ...
def within(
    request: Request | ViewRequest,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]: ...
def count(request: Request) -> NDArray[np.int64]: ...
def write_blocks(blocks: NDArray[np.uint64], first: int, rows: NDArray[np.uint8]) -> None: ...
def view_unit(item_views: int, query_views: int) -> int: ...
def write_groups(groups: NDArray[np.uint16], first: int, rows: NDArray[np.uint8]) -> None: ...
def kernel() -> str: ...
def kernels() -> list[str]: ...
