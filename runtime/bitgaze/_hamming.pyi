import numpy as np
from numpy.typing import NDArray

def search(
    codes: NDArray[np.uint8],
    queries: NDArray[np.uint8],
    k: int,
    kernel: str | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]: ...
def kernel() -> str: ...
def kernels() -> list[str]: ...
