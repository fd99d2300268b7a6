import pytest
import torch
from conftest import with_running_statistics
from torch import Tensor, nn
from torchvision.models import vgg16

from wsseg_core.nets.folding import fold_batch_norm
from wsseg_core.nets.vgg import CONV_LAYERS, FcnVgg16, head_parameters, load_imagenet_weights


def narrow(batch_norm: bool = False, **arguments: int) -> FcnVgg16:
    torch.manual_seed(3)
    return FcnVgg16(4, width=2, batch_norm=batch_norm, fc_channels=6, fc6_kernel=3, **arguments)


def layers_between(model: nn.Module, images: Tensor, last: str) -> Tensor:
    for name, module in model.named_children():
        images = module(images)
        if name == last:
            return images
    raise AssertionError(f"no layer {last}")


def test_imagenet_weights_give_the_features_of_torchvisions_vgg16():
    with torch.device("meta"):  # 138 million parameters are drawn once, below
        reference, model = vgg16(weights=None).eval(), FcnVgg16(2, fc6_padding=0).eval()
    reference.to_empty(device="cpu")
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for values in reference.parameters():
            bound = (6 / values[0].numel()) ** 0.5 if values.ndim > 1 else 0.1
            values.uniform_(-bound, bound, generator=generator)
        model.score.weight.fill_(7)
        load_imagenet_weights(model, reference.state_dict())
        images = torch.randn(1, 3, 224, 224, generator=generator)
        expected = reference.classifier[:-1](reference.features(images).flatten(1))
        features = layers_between(model, images, "drop7")
    assert features.shape == (1, 4096, 1, 1)
    assert expected.std() > 1e-3  # the random network has not faded to nothing
    torch.testing.assert_close(features.flatten(1), expected, rtol=1e-4, atol=1e-4)
    assert (model.score.weight == 7).all()


def vgg16_state(width: int = 2, fc_channels: int = 6) -> dict[str, Tensor]:
    """A state dict with the names of torchvision's VGG-16 and a kernel of 3 in fc6."""
    model = FcnVgg16(4, width=width, fc_channels=fc_channels, fc6_kernel=3)
    features = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    convs = [name for names in CONV_LAYERS.values() for name in names]
    names = dict(zip(convs, [f"features.{index}" for index in features], strict=True))
    names |= {"fc6": "classifier.0", "fc7": "classifier.3"}
    return {
        f"{names[layer]}.{part}": value.flatten(1) if layer.startswith("fc") and part == "weight" else value
        for layer, part, value in ((*key.split("."), value) for key, value in model.state_dict().items())
        if layer != "score"
    }


@pytest.mark.parametrize("other", [{"width": 4}, {"fc_channels": 8}])
def test_weights_of_another_width_are_refused_and_nothing_is_copied(other: dict[str, int]):
    model = narrow()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="full width"):
        load_imagenet_weights(model, vgg16_state(**other))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    load_imagenet_weights(model, vgg16_state())
    assert not torch.equal(model.fc6.weight, before["fc6.weight"])


def test_weights_do_not_fit_a_network_with_batch_norm():
    with pytest.raises(ValueError, match="batch norm"):
        load_imagenet_weights(narrow(batch_norm=True), vgg16_state())


def test_folding_batch_norm_keeps_the_scores():
    model = with_running_statistics(narrow(batch_norm=True))
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norm(model)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            layers_between(folded, images, "relu3_2"), layers_between(model, images, "relu3_2"), rtol=1e-4, atol=1e-5
        )
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_folded_network_is_one_without_batch_norm():
    folded = fold_batch_norm(narrow(batch_norm=True).train())
    plain = narrow()
    plain.load_state_dict(folded.state_dict())
    layers = [name for name, module in folded.named_children() if not isinstance(module, nn.Identity)]
    assert layers == [name for name, _ in plain.named_children()]
    assert not folded.training


def test_layers_have_their_caffe_names_in_order():
    names = [name for name, _ in narrow(batch_norm=True).named_children()]
    assert names[:7] == ["conv1_1", "bn1_1", "relu1_1", "conv1_2", "bn1_2", "relu1_2", "pool1"]
    assert names[-8:] == ["pool5", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "score"]
    assert [name for name in names if name.startswith("conv")] == [n for layers in CONV_LAYERS.values() for n in layers]
    assert CONV_LAYERS[3] == ("conv3_1", "conv3_2", "conv3_3")
    assert sum(map(len, CONV_LAYERS.values())) == 13


def test_full_width_has_the_channels_of_vgg16():
    with torch.device("meta"):
        model = FcnVgg16(20)
    assert [model.get_submodule(layers[-1]).out_channels for layers in CONV_LAYERS.values()] == [64, 128, 256, 512, 512]
    assert model.fc6.weight.shape == (4096, 512, 7, 7)
    assert model.score.weight.shape == (20, 4096, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 95), (160, 64)])
def test_any_image_size_gives_a_score_map_of_the_size_of_pool5(height: int, width: int):
    scores = narrow()(torch.zeros(2, 3, height, width))
    assert scores.shape == (2, 4, height // 32, width // 32)


def test_head_parameters_are_those_above_pool5():
    model = narrow(batch_norm=True)
    head = {name for name, p in model.named_parameters() if any(p is h for h in head_parameters(model))}
    assert head == {f"{layer}.{part}" for layer in ("fc6", "fc7", "score") for part in ("weight", "bias")}
