from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import with_running_statistics
from torch import Tensor, nn
from torchvision.models import resnet18

from wsseg_core.base.config import DataConfig, OtherNetworkConfig, Profile, load_profile
from wsseg_core.base.errors import WorkbookError
from wsseg_core.classify.classifier import (
    checkpoint_path,
    classifier_from_checkpoint,
    load_classifier,
    new_classifier,
    other_network,
    train_classifier,
)
from wsseg_core.classify.training import read_checkpoint
from wsseg_core.data.run import Run
from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.resnet import FcnResNet18, head_parameters, load_imagenet_weights
from wsseg_core.nets.vgg import FcnVgg16
from wsseg_core.saliency.gradients import prepare, saliency_maps


def narrow(width: int = 8) -> FcnResNet18:
    torch.manual_seed(3)
    return FcnResNet18(5, width)


def some_images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (32, 32), (33, 95), (161, 64)])
def test_any_image_size_gives_a_score_map(height: int, width: int):
    scores = narrow().eval()(torch.zeros(2, 3, height, width))
    assert scores.shape == (2, 5, -(-height // 32), -(-width // 32))


def test_full_width_has_the_layers_and_channels_of_torchvisions_resnet18():
    with torch.device("meta"):
        ours, theirs = FcnResNet18(20), resnet18()
    expected = {name: value.shape for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    expected |= {"score.weight": (20, 512, 1, 1), "score.bias": (20,)}
    assert {name: value.shape for name, value in ours.state_dict().items()} == expected


@pytest.mark.parametrize("width", [8, 24])
def test_every_stage_follows_the_width(width: int):
    model = narrow(width)
    stages = ("conv1", "layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2")
    channels = [model.get_submodule(name).out_channels for name in stages]
    assert channels == [width, width, 2 * width, 4 * width, 8 * width]
    assert model.layer1[0].downsample is None


def test_a_network_too_narrow_to_be_trained_safely_is_refused():
    with pytest.raises(WorkbookError, match="a ResNet-18 of width 7 is too narrow; use 8 or more"):
        narrow(7)


def test_imagenet_weights_give_the_features_of_torchvisions_resnet18():
    torch.manual_seed(0)
    reference, model = with_running_statistics(resnet18()), FcnResNet18(2).eval()
    score = model.score.weight.clone()
    load_imagenet_weights(model, reference.state_dict())
    features = []
    for network in (reference, model):
        network.layer4.register_forward_hook(lambda _, __, output: features.append(output))
        with torch.inference_mode():
            network(some_images())
    expected, found = features
    assert expected.std() > 1e-3  # the random network has not faded to nothing
    torch.testing.assert_close(found, expected)
    assert torch.equal(model.score.weight, score)


def test_weights_of_another_width_are_refused_and_nothing_is_copied():
    model = narrow()
    before = deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="full width"):
        load_imagenet_weights(model, resnet18().state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_head_parameters_are_those_of_the_score():
    model = narrow()
    head = {name for name, p in model.named_parameters() if any(p is h for h in head_parameters(model))}
    assert head == {"score.weight", "score.bias"}


@pytest.mark.parametrize(
    "model",
    [FcnResNet18(4, 8), FcnVgg16(4, 2, batch_norm=True, fc_channels=6, fc6_kernel=3), resnet18(num_classes=4)],
    ids=lambda model: type(model).__name__,
)
def test_folding_batch_norm_keeps_the_scores_the_type_and_the_original(model: nn.Module):
    model = with_running_statistics(model).train()
    before = deepcopy(model.state_dict())
    folded = fold_batch_norm(model)
    assert type(folded) is type(model)
    assert not folded.training
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(some_images()), model.eval()(some_images()), rtol=1e-4, atol=1e-4)


def test_a_batch_norm_without_a_convolution_before_it_is_kept():
    model = with_running_statistics(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)))
    folded = fold_batch_norm(model)
    assert [type(module) for module in folded] == [type(module) for module in model]
    with torch.inference_mode():
        torch.testing.assert_close(folded(some_images()), model(some_images()))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("layer", ["conv1", "layer2.0", "layer3.1", "layer4.1"])
def test_plain_saliency_is_the_gradient_at_the_layer(layer: str, folded: bool):
    model = with_running_statistics(narrow())
    model = prepare(fold_batch_norm(model) if folded else model)
    images, classes = some_images(), torch.tensor([[0, 3], [4, 1]])
    maps = saliency_maps(model, images, classes, [layer], guided=False)[layer]
    for row in range(2):
        expected = slow_map(model, images, classes[:, row], layer)
        torch.testing.assert_close(maps[:, row], expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def slow_map(model: nn.Module, images: Tensor, classes: Tensor, layer: str) -> Tensor:
    """Largest absolute gradient by torch's own backward pass, one class an image, at a copy of the layer's output."""
    seen = []

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        seen.append(output.detach().clone().requires_grad_())
        return seen[0].clone()

    hook = model.get_submodule(layer).register_forward_hook(keep)
    scores = model(images)
    hook.remove()
    chosen = scores[torch.arange(len(images)), classes].sum()
    return torch.autograd.grad(chosen, seen[0])[0].abs().amax(1)


def test_guided_saliency_passes_the_in_place_relus_of_the_blocks():
    """By hand above layer4.0: a block is relu(x + bn2(conv2(relu(bn1(conv1(x)))))), and each ReLU lets pass gradients
    that are positive, where its input was.
    """
    model = with_running_statistics(narrow())
    maps = saliency_maps(model, some_images(), torch.tensor([[2], [2]]), ["layer4.0"])["layer4.0"]
    seen: list[Tensor] = []
    hook = model.layer4[0].register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with torch.no_grad():
        model(some_images())
        hook.remove()
        x, block = seen[0], model.layer4[1]
        inner = block.bn1(block.conv1(x))
        outer = x + block.bn2(block.conv2(inner.relu()))
        gradient = model.score.weight[2][None].expand_as(outer) * (outer > 0)
        gradient = gradient.relu()
        through = backward_conv(gradient, block.bn2, block.conv2).relu() * (inner > 0)
        expected = (gradient + backward_conv(through, block.bn1, block.conv1)).abs().amax(1)
    torch.testing.assert_close(maps[:, 0], expected)


def backward_conv(gradient: Tensor, norm: nn.BatchNorm2d, conv: nn.Conv2d) -> Tensor:
    """Gradient at the input of a convolution that a batch norm in evaluation mode follows."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return F.conv_transpose2d(gradient * scale[None, :, None, None], conv.weight, padding=1)


@pytest.mark.parametrize("guided", [False, True])
def test_saliency_leaves_the_network_as_it_was(guided: bool):
    model = narrow().train()
    before = deepcopy(model.state_dict())
    maps = saliency_maps(model, some_images(), torch.tensor([[0, 1], [2, 3]]), ["layer3.1", "layer2.0"], guided)
    assert [tuple(layer.shape) for layer in maps.values()] == [(2, 2, 4, 6), (2, 2, 8, 12)]
    assert all(layer.isfinite().all() and layer.max() > 0 for layer in maps.values())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.fixture
def run(tiny_devkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    smoke = load_profile("smoke")
    data = DataConfig(source="voc", devkit=str(tiny_devkit), train_split="train", image_size=64)
    other = OtherNetworkConfig(width=8, weights="random", steps=2)
    profile: Profile = replace(smoke, data=data, other_network=other)
    return other_network(Run(profile, 0, tmp_path / "results"))


def test_it_is_trained_and_loaded_like_the_first_network(run: Run):
    history = train_classifier(run)
    assert [row["step"] for row in history if "loss" in row] == [1, 2]
    assert {row["phase"] for row in history} == {"all"}
    by_run = load_classifier(run)
    by_file, classes = classifier_from_checkpoint(checkpoint_path(run))
    assert isinstance(by_file, FcnResNet18)
    assert classes == ["cat", "dog", "sheep"]
    start = new_classifier(run.profile.classifier, 3, run.seed)
    with torch.inference_mode():
        assert torch.equal(by_run(some_images()), by_file(some_images()))
        assert not torch.equal(by_run(some_images()), start.eval()(some_images()))


def test_the_first_phase_trains_the_scores_alone(run: Run):
    config = replace(run.profile.classifier, head_steps=1)
    run = replace(run, profile=replace(run.profile, classifier=config))
    start = dict(new_classifier(config, 3, run.seed).named_parameters())
    train_classifier(run)
    head = read_checkpoint(checkpoint_path(run, "head"))["model"]
    assert {name for name in start if not torch.equal(head[name], start[name])} == {"score.weight", "score.bias"}


def test_a_checkpoint_of_one_network_is_refused_by_the_other(run: Run):
    train_classifier(run)
    path = str(checkpoint_path(run))
    config = replace(run.profile.classifier, architecture="vgg16", weights=path)
    with pytest.raises(WorkbookError, match="weights of another architecture"):
        new_classifier(config, 3, 0)
