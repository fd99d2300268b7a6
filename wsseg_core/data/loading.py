"""Images that other processes read for a training, and what goes wrong there told in one line.

PyTorch's loader raises an error of a worker anew, from the text of its traceback; here it travels as a value.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from wsseg_core.base.errors import WorkbookError


class _Delivered(Dataset):
    """A data set whose errors for the user are items like any other."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except WorkbookError as error:
            return error


def image_loader(dataset: Dataset, batches: Sampler, workers: int) -> DataLoader:
    """A loader of the batches, to be read through `received`.

    Args:
        dataset: indexed with the keys in the batches.
        batches: keys of each batch.
        workers: processes that read images; 0 reads in this one.
    """
    return DataLoader(_Delivered(dataset), batch_sampler=batches, num_workers=workers, collate_fn=_collate)


def _collate(items: list[Any]) -> Any:
    return next((item for item in items if isinstance(item, WorkbookError)), None) or default_collate(items)


def received(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader.

    Raises:
        WorkbookError: the one that a worker met, as it was there; or workers that died or ran out of shared memory.
    """
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "shared memory" not in str(error) and "DataLoader worker (pid" not in str(error):
                raise
            raise WorkbookError(
                "the processes that read images died or had no shared memory left; set workers = 0 in the profile, "
                "or give more shared memory (docker run --shm-size=2g)"
            ) from None
        if isinstance(batch, WorkbookError):
            raise batch
        yield batch
