"""A network that is made random layer by layer, and what becomes of its maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NARROW, write_tiny_devkit
from torch import nn

from wsseg_core.base.config import DataConfig, Profile, SaliencyConfig, SweepConfig
from wsseg_core.classify.classifier import new_classifier
from wsseg_core.data.run import Run
from wsseg_core.evaluate.sanity import SHARES, randomised, sanity_table
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.saliency.gradients import prepare


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


@pytest.mark.parametrize(("share", "changed"), [(0, ()), (0.01, (4,)), (0.5, (2, 4)), (1, (0, 2, 4))])
def test_layers_lose_their_order_from_the_scores_down(network: nn.Sequential, share: float, changed: tuple) -> None:
    before = [values.clone() for values in network.parameters()]
    other = randomised(network, share, seed=0)
    for index in (0, 2, 4):
        own, made = network[index].weight.flatten(), other[index].weight.flatten()
        assert torch.equal(own, made) == (index not in changed)
        assert torch.equal(own.sort().values, made.sort().values)  # the same weights, in another order
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), before, strict=True))
    assert torch.equal(randomised(network, share, seed=0)[4].weight, other[4].weight)


def test_a_trained_network_is_like_itself_and_a_random_one_less(tmp_path: Path) -> None:
    write_tiny_devkit(tmp_path / "devkit")
    data = DataConfig(source="voc", devkit=str(tmp_path / "devkit"), train_split="train", image_size=32)
    own = {"saliency": SaliencyConfig(sizes=(32,)), "sweeps": SweepConfig(bootstrap_samples=20)}
    run = Run(Profile(data=data, classifier=NARROW, **own), 0, tmp_path / "results")
    model = prepare(fold_batch_norm(new_classifier(NARROW, 3, seed=0)))
    table = sanity_table(run, model, run.train_ids)
    assert table["random layers"].tolist() == [100 * share for share in SHARES for _ in range(4)]
    assert table["gradient"].tolist() == ["plain", "plain", "guided", "guided"] * len(SHARES)
    assert table["map"].tolist() == ["raw", "subtracted"] * 2 * len(SHARES)
    np.testing.assert_allclose(table["ours"][:4], 1)
    assert table["ours"].iloc[-4:].min() < 0.9
    measured = table.dropna(subset="ours")  # a network of two channels may lose its maps altogether
    assert (measured["low"] <= measured["ours"] + 1e-9).all()
    assert (measured["ours"] <= measured["high"] + 1e-9).all()


def test_a_data_set_of_one_class_has_no_two_maps_to_compare(tmp_path: Path) -> None:
    write_tiny_devkit(tmp_path / "devkit")
    data = DataConfig(
        source="voc", devkit=str(tmp_path / "devkit"), train_split="train", image_size=32, classes=("cat",)
    )
    own = {"saliency": SaliencyConfig(sizes=(32,)), "sweeps": SweepConfig(bootstrap_samples=20)}
    run = Run(Profile(data=data, classifier=NARROW, **own), 0, tmp_path / "results")
    table = sanity_table(run, prepare(fold_batch_norm(new_classifier(NARROW, 1, seed=0))), run.train_ids)
    assert table["two classes"].isna().all()
    np.testing.assert_allclose(table["ours"][:4], 1)
