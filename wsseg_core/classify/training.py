"""The one training loop: devices, processes, mixed precision, checkpoints, resume, progress.

Nothing random depends on what happened before: the order of the images is a function of (seed, epoch), the
augmentation of (seed, step, image), dropout of (seed, step). So the full state of a run is its weights, its optimiser
and its step, and a run that was killed continues as if it had not been.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from wsseg_core.base.errors import WorkbookError
from wsseg_core.base.files import plain, write_atomically
from wsseg_core.data.loading import image_loader, received

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Key = tuple[int, int]  # (step, index of the image), what a training set is indexed with


@dataclass(frozen=True)
class Hardware:
    """Where and how precisely to train; none of it belongs to the method.

    Attributes:
        precision: "float32", "bfloat16" (mixed), or "auto": bfloat16 where the device computes it natively.
        devices: processes, one a device; on a machine without GPU they share its cores.
        workers: further processes that read images.
    """

    precision: str = "auto"
    devices: int = 1
    workers: int = 0


@dataclass
class Recipe:
    """One training: what to minimise, on what, for how long.

    Attributes:
        loss: maps (network, batch) to a scalar; the batch is what the data set gives, collated.
        dataset: indexed with (step, index); its length is the number of images.
        optimizer: over the parameters to train; the others must not require a gradient.
        schedule: learning rate schedule, advanced once a step.
        steps: optimiser steps in all.
        batch_size: images a step, over all processes.
        seed: of the order of the images, the augmentation and dropout.
        validate: measures the network; its values join the learning curve.
        validate_every: steps between two validations; there is always one at the end.
        checkpoint_every: steps between two checkpoints; there is always one at the end.
        settings: what the result depends on; a checkpoint made under other settings is not continued.
    """

    loss: Callable[[nn.Module, Any], Tensor]
    dataset: "Dataset[Any]"
    optimizer: Optimizer
    schedule: LRScheduler
    steps: int
    batch_size: int
    seed: int = 0
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    validate_every: int = 10**9
    checkpoint_every: int = 500
    settings: Mapping[str, Any] = field(default_factory=dict)


class StepBatches(Sampler[list[Key]]):
    """The images of every step from `first` on, for one process of several.

    An epoch is a permutation drawn from (seed, epoch) and cut into whole batches; the processes share each batch.

    Raises:
        WorkbookError: the batch cannot be shared evenly, so that the mean of the processes would not be its mean.
    """

    def __init__(self, images: int, recipe: Recipe, first: int, rank: int = 0, processes: int = 1) -> None:
        self.images, self.recipe, self.first = images, recipe, first
        self.rank, self.processes = rank, processes
        self.batch_size = min(recipe.batch_size, images)
        if self.batch_size % processes:
            raise WorkbookError(
                f"{self.batch_size} images a step cannot be shared evenly by {processes} processes; "
                "change batch_size or the number of devices"
            )

    def __len__(self) -> int:
        return self.recipe.steps - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        batches = self.images // self.batch_size
        for step in range(self.first, self.recipe.steps):
            epoch, position = divmod(step, batches)
            order = np.random.default_rng([self.recipe.seed, epoch]).permutation(self.images)
            batch = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield [(step, int(index)) for index in batch[self.rank :: self.processes]]


def fit(model: nn.Module, recipe: Recipe, checkpoint: Path, hardware: Hardware, description: str) -> list[dict]:
    """Train a network in place, or continue where a killed run stopped.

    Args:
        model: the network; afterwards it holds the last step's weights, on the CPU.
        recipe: what to do.
        checkpoint: file of the full state, written atomically at intervals, and at the end without the optimiser's.
        hardware: device and precision.
        description: what the progress bar says.

    Returns:
        The learning curve: a dictionary a logged step, `step`, `loss` (mean since the last one) and
        `learning_rate`, and one a validation, `step` and what `validate` gave.

    Raises:
        WorkbookError: the training set is empty, the checkpoint there is damaged, or, with the last checkpoint kept,
            the loss is no longer finite or a process that read images was killed.
    """
    if len(recipe.dataset) == 0:  # type: ignore[arg-type]
        raise WorkbookError(f"{checkpoint}: no image to train on; check the training split of the profile")
    fabric = make_fabric(hardware)
    state = _earlier_state(checkpoint, recipe)
    if state["step"] > 0:
        model.load_state_dict(state["model"])
    if state["step"] < recipe.steps:
        fabric.launch()
        _run(fabric, model, recipe, state, checkpoint, hardware.workers, description)
    model.to("cpu").to(memory_format=torch.contiguous_format)
    return state["history"]


def new_optimizer(
    kind: str, groups: Sequence[dict[str, Any]], momentum: float, weight_decay: float, stage: str
) -> Optimizer:
    """SGD or AdamW.

    Args:
        kind: "sgd" or "adamw".
        groups: of parameters, `params`, each with its learning rate, `lr`.
        momentum: of SGD.
        weight_decay: of all groups.
        stage: table of the profile that names the optimiser.

    Raises:
        WorkbookError: another optimiser.
    """
    if kind == "sgd":
        return SGD(groups, momentum=momentum, weight_decay=weight_decay)
    if kind == "adamw":
        return AdamW(groups, weight_decay=weight_decay)
    raise WorkbookError(f"{stage}.optimizer {kind!r} is unknown; use 'sgd' or 'adamw'")


def make_fabric(hardware: Hardware) -> "Fabric":
    """Choose the device, the processes and the precision.

    Raises:
        WorkbookError: an unknown precision.
    """
    from lightning_fabric import Fabric  # takes seconds, and who only reads a checkpoint needs it not

    gpu = torch.cuda.is_available()
    names: dict[str, Literal["32-true", "bf16-mixed"]] = {"float32": "32-true", "bfloat16": "bf16-mixed"}
    names["auto"] = names["bfloat16" if _native_bfloat16(gpu) else "float32"]
    if hardware.precision not in names:
        raise WorkbookError(f"precision {hardware.precision!r} is unknown; use one of {', '.join(names)}")
    return Fabric(
        accelerator="gpu" if gpu else "cpu",
        strategy="ddp" if hardware.devices > 1 else "auto",
        devices=hardware.devices,
        precision=names[hardware.precision],
    )


def _native_bfloat16(gpu: bool) -> bool:
    if gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _run(
    fabric: "Fabric",
    model: nn.Module,
    recipe: Recipe,
    state: dict[str, Any],
    checkpoint: Path,
    workers: int,
    description: str,
) -> None:
    first, history, losses = state["step"], state["history"], state["losses"]
    network, optimizer = fabric.setup(model.to(memory_format=torch.channels_last), recipe.optimizer)
    if first > 0:  # only now, so that the optimiser's state lands on the device of its parameters
        recipe.optimizer.load_state_dict(state["optimizer"])
        recipe.schedule.load_state_dict(state["schedule"])
    _train_mode(network)
    log_every = max(1, recipe.steps // 100)
    bar = _progress(fabric, recipe, first, workers, description)
    for step, batch in enumerate(bar, start=first + 1):
        last, rate = step == recipe.steps, float(recipe.schedule.get_last_lr()[0])
        losses.append(_step(fabric, network, optimizer, recipe, batch, step))
        if not np.isfinite(losses[-1]):
            raise WorkbookError(
                f"{checkpoint}: the loss is {losses[-1]} at step {step}; lower learning_rate and run again"
            )
        if step % log_every == 0 or last:
            history.append({"step": step, "loss": float(np.mean(losses)), "learning_rate": rate})
            bar.set_postfix(loss=f"{history[-1]['loss']:.3f}")
            losses.clear()
        if recipe.validate and (step % recipe.validate_every == 0 or last) and fabric.is_global_zero:
            network.eval()
            with fabric.autocast():
                history.append({"step": step} | recipe.validate(model))
            _train_mode(network)
        if step % recipe.checkpoint_every == 0 or last:
            if fabric.is_global_zero:
                _save(checkpoint, model, recipe, {"step": step, "history": history, "losses": losses})
            fabric.barrier()


def _train_mode(network: nn.Module) -> None:
    """Batch norm whose scale does not learn keeps its statistics, too."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and not module.weight.requires_grad:
            module.eval()


def _progress(fabric: "Fabric", recipe: Recipe, first: int, workers: int, description: str) -> tqdm:
    """The batches of this process, under a progress bar that counts the steps of the whole run."""
    batches = StepBatches(len(recipe.dataset), recipe, first, fabric.global_rank, fabric.world_size)  # type: ignore[arg-type]
    loader = image_loader(recipe.dataset, batches, workers)
    return tqdm(
        received(fabric.setup_dataloaders(loader, use_distributed_sampler=False)),
        desc=description,
        initial=first,
        total=recipe.steps,
        mininterval=1.0,
        disable=fabric.global_rank > 0,
    )


def _step(fabric: "Fabric", network: nn.Module, optimizer: Any, recipe: Recipe, batch: Any, step: int) -> float:
    """One step of the optimiser; returns the loss of the whole batch."""
    torch.manual_seed(recipe.seed * 1_000_003 + step)
    optimizer.zero_grad()
    loss = recipe.loss(network, batch)
    fabric.backward(loss)
    optimizer.step()
    recipe.schedule.step()
    return cast(Tensor, fabric.all_reduce(loss.detach(), reduce_op="mean")).item()


def _save(checkpoint: Path, model: nn.Module, recipe: Recipe, progress: dict[str, Any]) -> None:
    state = progress | {"model": model.state_dict(), "settings": plain(recipe.settings)}
    if progress["step"] < recipe.steps:  # of no use afterwards, and twice as large as the network
        state |= {"optimizer": recipe.optimizer.state_dict(), "schedule": recipe.schedule.state_dict()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(checkpoint, buffer.getvalue())


def _earlier_state(checkpoint: Path, recipe: Recipe) -> dict[str, Any]:
    """The state that a run of the same settings left, or that of step 0."""
    state = read_checkpoint(checkpoint) if checkpoint.is_file() else {}
    if state.get("settings") != plain(recipe.settings):
        return {"step": 0, "history": [], "losses": []}
    return state


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of `fit`, without executing anything that it might contain.

    Raises:
        WorkbookError: no such file, or not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WorkbookError(f"{path}: no such file; train the network first, or give the path of its weights") from None
    except (PermissionError, IsADirectoryError) as error:
        raise WorkbookError(f"{path}: cannot be read ({error.strerror}); make it a readable file") from None
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, UnpicklingError):
        state = None  # what torch says here suggests to load the file unsafely
    if not isinstance(state, dict) or not {"model", "settings", "step"} <= state.keys():
        raise WorkbookError(
            f"{path}: damaged, or no checkpoint of this workbook; delete it and train again, or give another file"
        )
    return state
