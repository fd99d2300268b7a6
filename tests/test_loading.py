"""What goes wrong in a process that reads images reaches the user as the line that it is."""

import pytest
import torch
from conftest import TINY_SPLITS
from torch.utils.data import BatchSampler, Dataset, SequentialSampler

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.loading import image_loader, received
from wsseg_core.data.voc import VocDevkit


class Sizes(Dataset):
    """Height of each training image of a devkit."""

    def __init__(self, devkit: VocDevkit) -> None:
        self.devkit = devkit

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(self.devkit.image(TINY_SPLITS["train"][index]).shape[0])


def batches() -> BatchSampler:
    return BatchSampler(SequentialSampler(range(6)), batch_size=2, drop_last=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_in_order(tiny_devkit, workers):
    loader = image_loader(Sizes(VocDevkit(tiny_devkit)), batches(), workers)
    assert [batch.tolist() for batch in received(loader)] == [[32, 34], [36, 38], [40, 42]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_named_in_one_line(tiny_devkit, workers):
    path = tiny_devkit / "JPEGImages/2007_000004.jpg"
    path.write_bytes(path.read_bytes()[:400])
    arriving = received(image_loader(Sizes(VocDevkit(tiny_devkit)), batches(), workers))
    next(arriving)
    with pytest.raises(WorkbookError) as caught:
        next(arriving)
    assert str(caught.value).startswith(f"{path}: cannot be decoded")
    assert "\n" not in str(caught.value)


def failing(message: str):
    raise RuntimeError(message)
    yield


@pytest.mark.parametrize(
    "message",
    [
        "Caught RuntimeError in DataLoader worker process 0.\n unable to allocate shared memory(shm) for file </t>",
        "DataLoader worker (pid 7) is killed by signal: Bus error.",
        "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
    ],
)
def test_workers_without_memory_are_told_in_one_line(message):
    with pytest.raises(WorkbookError, match="set workers = 0 in the profile, or give more shared memory"):
        next(received(failing(message)))


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="a bug"):
        next(received(failing("Caught RuntimeError in DataLoader worker process 0: a bug")))
