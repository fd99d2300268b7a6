"""Dense CRFs in worker processes, while the calling process goes on: what a training needs that draws with a CRF."""

import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

import numpy as np

from wsseg_core.base.config import CrfConfig
from wsseg_core.base.parallel import cpu_count, lost_workers, process_pool
from wsseg_core.crf.dense import dense_crf


class CrfPool:
    """Worker processes for the dense CRFs of a training; a context manager, which ends them.

    Where there is one worker, or one core, the calling process computes a CRF when its result is asked for. The masks
    are the same in either case.

    Args:
        config: of the CRF.
        workers: processes; all cores when left out. They start with the first image.
    """

    def __init__(self, config: CrfConfig, workers: int | None = None) -> None:
        self.config = config
        workers = workers or cpu_count()
        self._processes = process_pool(workers) if workers > 1 else None
        self._waited, self._since = 0.0, time.perf_counter()

    def submit(self, image: np.ndarray, probabilities: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin with one image.

        Args:
            image: uint8 (H, W, 3), RGB.
            probabilities: float (K, H, W) in [0, 1], one row for each label.

        Returns:
            What waits for the result: uint8 (H, W), the row that is the most probable after the CRF. It raises the
            errors of `dense_crf`, and a WorkbookError where a worker was killed or could not start, as this does.
        """
        task = partial(best_rows, image, probabilities, self.config)
        if self._processes is None:
            return partial(self._wait, task)
        with lost_workers("dense CRF"):
            return partial(self._wait, self._processes.submit(task).result)

    def lap(self) -> dict[str, float]:
        """Seconds since the last call, or since the beginning: `seconds`, and of these waited for CRFs, `crf_wait`."""
        waited, since = self._waited, self._since
        self._waited, self._since = 0.0, time.perf_counter()
        return {"crf_wait": waited, "seconds": self._since - since}

    def _wait(self, result: Callable[[], np.ndarray]) -> np.ndarray:
        started = time.perf_counter()
        with lost_workers("dense CRF"):
            rows = result()
        self._waited += time.perf_counter() - started
        return rows

    def __enter__(self) -> "CrfPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)


def best_rows(image: np.ndarray, probabilities: np.ndarray, config: CrfConfig) -> np.ndarray:
    """The most probable row at every pixel after a dense CRF, uint8 (H, W); a mask is sent back faster than marginals.

    Raises:
        WorkbookError: the errors of `dense_crf`.
    """
    return dense_crf(image, probabilities, config).argmax(0).astype(np.uint8)
