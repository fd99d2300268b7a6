import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.training import Hardware, Key, Recipe, StepBatches, fit, make_fabric, read_checkpoint

EXACT = Hardware("float32")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # only a CPU repeats itself to the bit


class NoisyPoints(Dataset):
    """Small images, whose label says whether their first channel is bright; the noise depends on the step."""

    def __init__(self, count: int = 12) -> None:
        self.labels = torch.arange(count) % 2

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        step, index = key
        image = 0.3 * torch.from_numpy(np.random.default_rng([step, index]).normal(size=(3, 4, 4))).float()
        image[0] += 2.0 * self.labels[index] - 1
        return image, self.labels[index].float()


def small_network(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(16, 1))


def point_loss(model: nn.Module, batch: Any) -> Tensor:
    images, labels = batch
    return F.binary_cross_entropy_with_logits(model(images)[:, 0], labels)


def recipe_for(model: nn.Module, steps: int = 10, **changes: Any) -> Recipe:
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step / 10))
    recipe = Recipe(point_loss, NoisyPoints(), optimizer, schedule, steps=steps, batch_size=4, seed=7)
    return replace(recipe, **changes)


def train(checkpoint: Path, hardware: Hardware = EXACT, dropout: float = 0.2, **changes: Any) -> tuple[nn.Module, list]:
    model = small_network(dropout)
    return model, fit(model, recipe_for(model, **changes), checkpoint, hardware, "training")


def failing_at(step: int, error: Exception) -> Callable[[nn.Module, Any], Tensor]:
    calls = 0

    def loss(model: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == step:
            raise error
        return point_loss(model, batch)

    return loss


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def only_line(error: pytest.ExceptionInfo[WorkbookError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_learns_what_is_easy(tmp_path: Path):
    model, history = train(tmp_path / "a.ckpt", steps=60)
    assert history[0]["loss"] > 0.5
    assert history[-1]["loss"] < 0.1
    images, labels = zip(*(NoisyPoints()[1000, index] for index in range(12)), strict=True)
    model.eval()
    assert torch.equal(model(torch.stack(images))[:, 0] > 0, torch.stack(labels) > 0)


def test_one_step_is_the_gradient_step_worked_out_by_hand(tmp_path: Path):
    recipe_model, reference = small_network(0), small_network(0)
    recipe = recipe_for(recipe_model, steps=1)
    keys = next(iter(StepBatches(12, recipe, first=0)))
    batch = [torch.stack(items) for items in zip(*(recipe.dataset[key] for key in keys), strict=True)]
    loss = point_loss(reference, batch)
    loss.backward()
    history = fit(recipe_model, recipe, tmp_path / "a.ckpt", EXACT, "training")
    assert history == [{"step": 1, "loss": pytest.approx(loss.item()), "learning_rate": 0.1}]
    for ours, theirs in zip(recipe_model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad)


def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path):
    expected, curve = train(tmp_path / "whole.ckpt", checkpoint_every=3)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "killed.ckpt", checkpoint_every=3, loss=failing_at(8, RuntimeError("killed")))
    assert read_checkpoint(tmp_path / "killed.ckpt")["step"] == 6
    assert "optimizer" in read_checkpoint(tmp_path / "killed.ckpt")
    assert "optimizer" not in read_checkpoint(tmp_path / "whole.ckpt")
    torch.manual_seed(99)  # the state of the new process is another one
    resumed, history = train(tmp_path / "killed.ckpt", checkpoint_every=3)
    assert same_weights(resumed, expected)
    assert history == curve
    assert [row["step"] for row in history] == list(range(1, 11))


def test_a_mean_loss_over_several_steps_survives_a_kill(tmp_path: Path):
    # 200 steps are logged two by two, and the kill comes after a checkpoint at an odd step.
    _, curve = train(tmp_path / "whole.ckpt", steps=200, checkpoint_every=5)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "k.ckpt", steps=200, checkpoint_every=5, loss=failing_at(8, RuntimeError("killed")))
    assert train(tmp_path / "k.ckpt", steps=200, checkpoint_every=5)[1] == curve
    assert len(curve) == 100


def test_a_finished_run_is_only_read_back(tmp_path: Path):
    model, history = train(tmp_path / "a.ckpt")
    again, same = train(tmp_path / "a.ckpt", loss=failing_at(1, AssertionError("trained again")))
    assert same_weights(model, again)
    assert same == history


def test_other_settings_start_anew(tmp_path: Path):
    train(tmp_path / "a.ckpt", settings={"rate": (1, 2)})
    _, history = train(tmp_path / "a.ckpt", settings={"rate": (1, 2)}, loss=failing_at(1, AssertionError("trained")))
    assert len(history) == 10
    with pytest.raises(RuntimeError, match="first step"):
        train(tmp_path / "a.ckpt", settings={"rate": (1, 3)}, loss=failing_at(1, RuntimeError("first step")))


def test_processes_that_read_images_change_nothing(tmp_path: Path):
    expected, _ = train(tmp_path / "a.ckpt")
    assert same_weights(train(tmp_path / "b.ckpt", Hardware("float32", workers=2))[0], expected)


def test_the_seed_decides_dropout_and_order(tmp_path: Path):
    first, _ = train(tmp_path / "a.ckpt", steps=2)
    torch.manual_seed(5)
    assert same_weights(train(tmp_path / "b.ckpt", steps=2)[0], first)
    assert not same_weights(train(tmp_path / "c.ckpt", steps=2, seed=8)[0], first)


def test_validation_measures_the_network_in_evaluation_mode_and_training_goes_on(tmp_path: Path):
    modes = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        modes.append(model.training)
        return point_loss(model, batch)

    def validate(model: nn.Module) -> dict[str, float]:
        return {"training": float(model.training)}

    _, history = train(tmp_path / "a.ckpt", loss=loss, validate=validate, validate_every=4)
    assert [row for row in history if "training" in row] == [{"step": step, "training": 0.0} for step in (4, 8, 10)]
    assert modes == [True] * 10


def test_the_curve_holds_the_rate_that_each_step_used(tmp_path: Path):
    _, history = train(tmp_path / "a.ckpt", steps=3)
    assert [row["learning_rate"] for row in history] == pytest.approx([0.1, 0.1 / 1.1, 0.1 / 1.2])


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_precision_is_that_of_the_layers_and_not_of_the_weights(tmp_path: Path, precision: str):
    seen = set()
    model = small_network()
    model[0].register_forward_hook(lambda *arguments: seen.add(arguments[2].dtype))
    fit(model, recipe_for(model, steps=1), tmp_path / "a.ckpt", Hardware(precision), "training")
    choices = {"float32": [torch.float32], "bfloat16": [torch.bfloat16], "auto": [torch.float32, torch.bfloat16]}
    assert seen <= set(choices[precision])
    assert len(seen) == 1
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_an_unknown_precision_names_the_known_ones():
    with pytest.raises(WorkbookError, match="'float16' is unknown; use one of float32, bfloat16, auto"):
        make_fabric(Hardware("float16"))


def test_an_empty_training_set_is_told(tmp_path: Path):
    with pytest.raises(WorkbookError, match="no image to train on"):
        train(tmp_path / "a.ckpt", dataset=NoisyPoints(0))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path):
    calls = []

    def explode(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        return point_loss(model, batch) * (float("nan") if len(calls) == 5 else 1)

    with pytest.raises(WorkbookError, match="the loss is nan at step 5; lower learning_rate") as error:
        train(tmp_path / "a.ckpt", loss=explode, checkpoint_every=2)
    assert "a.ckpt" in only_line(error)
    assert read_checkpoint(tmp_path / "a.ckpt")["step"] == 4


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_told_in_one_line(tmp_path: Path, share: float):
    path = tmp_path / "a.ckpt"
    train(path, steps=1)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WorkbookError, match="damaged, or no checkpoint") as error:
        train(path, steps=1)
    assert only_line(error).startswith(str(path))


@pytest.mark.parametrize("content", [b"hello", b"\x80\x02.", b"\x80\x02N.", bytes(99), b"PK\x03\x04" + bytes(50)])
def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(WorkbookError, match="damaged, or no checkpoint") as error:
        read_checkpoint(path)
    assert str(path) in only_line(error)


def test_a_file_with_bare_weights_is_no_checkpoint(tmp_path: Path):
    torch.save({"model": small_network().state_dict()}, tmp_path / "a.ckpt")
    with pytest.raises(WorkbookError, match="no checkpoint of this workbook"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_a_missing_checkpoint_and_a_folder_are_told_apart(tmp_path: Path):
    with pytest.raises(WorkbookError, match="no such file; train the network first"):
        read_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(WorkbookError, match="cannot be read"):
        read_checkpoint(tmp_path)


class Malice:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.victim),)


def test_a_checkpoint_executes_nothing(tmp_path: Path):
    path, victim = tmp_path / "a.ckpt", tmp_path / "executed"
    torch.save({"model": {}, "settings": {}, "step": 1, "more": Malice(victim)}, path)
    with pytest.raises(WorkbookError) as error:
        train(path)
    assert not victim.exists()
    assert "weights_only" not in only_line(error)  # torch's own advice is to load it unsafely
    torch.load(path, weights_only=False)
    assert victim.exists()  # so it would have


@given(images=st.integers(1, 20), share=st.integers(1, 4), processes=st.integers(1, 3), seed=st.integers(0, 3))
def test_processes_share_each_batch_and_an_epoch_is_a_permutation(images: int, share: int, processes: int, seed: int):
    batch_size = share * processes
    if images < batch_size:
        images += batch_size
    recipe = recipe_for(small_network(), steps=3 * (images // batch_size), batch_size=batch_size, seed=seed)
    ranks = [list(StepBatches(images, recipe, 0, rank, processes)) for rank in range(processes)]
    steps = [[key for part in parts for key in part] for parts in zip(*ranks, strict=True)]
    assert all(len(part) == share for parts in ranks for part in parts)
    assert [{step for step, _ in keys} for keys in steps] == [{step} for step in range(recipe.steps)]
    for epoch in np.split(np.array(steps)[:, :, 1], 3):
        assert len(set(epoch.flat)) == epoch.size
        assert set(epoch.flat) <= set(range(images))
        assert images - epoch.size < batch_size
    assert [sorted(keys) for keys in steps] == [sorted(keys) for keys in StepBatches(images, recipe, 0)]


def test_batches_from_a_later_step_are_the_rest_of_all(tmp_path: Path):
    recipe = recipe_for(small_network())
    assert list(StepBatches(12, recipe, first=4)) == list(StepBatches(12, recipe, first=0))[4:]
    assert len(StepBatches(12, recipe, first=4)) == 6


def test_the_order_differs_between_epochs():
    recipe = recipe_for(small_network(), steps=2, batch_size=12)
    first, second = ([index for _, index in keys] for keys in StepBatches(12, recipe, 0))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_a_batch_larger_than_the_training_set_is_all_of_it():
    recipe = recipe_for(small_network(), steps=2, batch_size=99)
    assert [len(keys) for keys in StepBatches(5, recipe, 0)] == [5, 5]


@pytest.mark.parametrize(("images", "batch_size"), [(12, 3), (1, 2)])
def test_a_batch_that_cannot_be_shared_evenly_is_refused(images: int, batch_size: int):
    with pytest.raises(WorkbookError, match="cannot be shared evenly by 2 processes"):
        StepBatches(images, recipe_for(small_network(), batch_size=batch_size), 0, rank=0, processes=2)


SCRIPT = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_training import Hardware, train
for checkpoint in sys.argv[1:]:  # a second training in the same processes, as the phases of the classifier are
    train(Path(checkpoint), Hardware("float32", devices=2), dropout=0, checkpoint_every=4)
"""


def test_two_processes_give_the_result_of_one(tmp_path: Path):
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    arguments = [str(tmp_path / name) for name in ("train.py", "first.ckpt", "second.ckpt")]
    result = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    model, history = train(tmp_path / "one.ckpt", dropout=0)
    for two in (read_checkpoint(tmp_path / "first.ckpt"), read_checkpoint(tmp_path / "second.ckpt")):
        assert two["step"] == 10
        for name, value in model.state_dict().items():
            torch.testing.assert_close(two["model"][name], value, rtol=1e-5, atol=1e-6)
        assert [row["loss"] for row in two["history"]] == pytest.approx([row["loss"] for row in history], rel=1e-5)
