"""Models behave as plain ones on bad input and inside other machinery of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.model_summary import ModelSummary
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torchvision.ops import StochasticDepth

from streammodels import StreamingClassifier, StreamingResNet, stream


class Block(nn.Module):
    """A residual block with dropout of pixels, channels and whole branches."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4).eval(), nn.ReLU(inplace=True), nn.Dropout(0.3),
            nn.Dropout2d(0.3), nn.Conv2d(4, 4, 3, padding=1),
        )  # fmt: skip
        self.depth = StochasticDepth(0.4, "row")

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.depth(self.body(x)) + x)


def network() -> nn.Sequential:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(nn.Conv2d(3, 4, 5, 2, 2), Block(), nn.MaxPool2d(2), Block(), *head).double()


def grads(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("shape", [(1, 3, 0, 64), (1, 3, 64, 0), (0, 3, 0, 64)])
def test_images_without_pixels_are_refused(shape: tuple[int, ...]) -> None:
    model = StreamingResNet("resnet9", weights=None, tile_size=32)
    with pytest.raises(ValueError, match="no pixels"):
        model(torch.zeros(shape, dtype=torch.uint8))


def test_images_with_other_channels_are_refused() -> None:
    model = StreamingResNet("resnet9", weights=None, tile_size=32)
    with pytest.raises(
        ValueError, match=r"the image of shape .* has 4 channels, but layer '\w+' takes 3.*image\[:, :3\]"
    ):
        model(torch.zeros(1, 4, 64, 64))


def test_smallest_images_work() -> None:
    model = StreamingResNet("resnet9", weights=None, tile_size=32)
    assert model(torch.zeros(1, 3, 1, 1)).shape == (1, 2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("reduce", [nn.Identity, lambda: nn.AdaptiveAvgPool2d(1), lambda: nn.AdaptiveMaxPool2d(1)])
def test_rows_that_are_no_numbers_pass_as_in_the_plain_network(value: float, reduce: Callable[[], nn.Module]) -> None:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    layers += [nn.Conv2d(4, 4, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), reduce()]
    module = nn.Sequential(*layers).double().eval()
    image = torch.randn(2, 3, 37, 21, dtype=torch.float64)
    image[0, :, 17:19] = value
    results = []
    for call in (module, stream(module, strip_rows=4)):
        module.zero_grad()
        leaf = image.clone().requires_grad_()
        out = call(leaf)
        out.sum().backward()
        results.append({"out": out.detach(), "image": leaf.grad, **grads(module)})
    assert results[0]["out"].isnan().any() or not results[0]["out"].isfinite().all()
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=1e-12, atol=1e-12, equal_nan=True, msg=name)


def test_nan_image_gives_nan_loss_and_not_an_error() -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    model = StreamingClassifier(trunk, nn.Linear(4, 2), tile_size=8)
    assert model(torch.full((1, 3, 20, 20), torch.nan)).isnan().all()


# ---------------------------------------------------------------- autograd


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_models_without_gradients_give_the_same(mode: Callable[[], Any]) -> None:
    model = StreamingResNet("resnet9", weights=None, tile_size=32, train_streaming_layers=True).eval()
    image = torch.rand(1, 3, 70, 50)
    with mode():
        result = model(image)
    assert result.grad_fn is None
    torch.testing.assert_close(result, model(image).detach())


def test_second_derivatives_of_a_model_are_refused() -> None:
    model = StreamingResNet("resnet9", weights=None, tile_size=32, train_streaming_layers=True)
    image = torch.rand(1, 3, 70, 50, requires_grad=True)
    [grad] = torch.autograd.grad(model(image).square().sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.square().sum().backward()


@pytest.mark.parametrize("where", ["conv1.weight", "layer3.0.conv.weight", "layer1.1.bn2.weight", "layer2.0.bn.weight"])
def test_weights_changed_between_forward_and_backward_are_noticed(where: str) -> None:
    model = StreamingResNet("resnet9", weights=None, tile_size=32, train_streaming_layers=True)
    loss = model(torch.rand(1, 3, 70, 50)).sum()
    with torch.no_grad():
        model.get_parameter(where).mul_(1.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_optimizer_step_between_forward_and_backward_is_noticed() -> None:
    module = network().eval()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    trunk, image = stream(module, strip_rows=4), torch.randn(1, 3, 33, 21, dtype=torch.float64)
    first, second = trunk(image).sum(), trunk(image).sum()
    first.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        second.backward()


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("strip_rows", [3, 100])
def test_inside_a_checkpoint_gradients_are_the_same(use_reentrant: bool, training: bool, strip_rows: int) -> None:
    module = network()
    for layer in module.modules():
        layer.training = training and not isinstance(layer, nn.BatchNorm2d)
    trunk, image = stream(module, strip_rows=strip_rows), torch.randn(2, 3, 33, 21, dtype=torch.float64)
    results = []
    for call in (trunk, lambda x: checkpoint(trunk, x, use_reentrant=use_reentrant)):
        torch.manual_seed(4)
        module.zero_grad()
        leaf = image.clone().requires_grad_()
        out = call(leaf)
        out.square().sum().backward()
        results.append({"out": out.detach(), "image": leaf.grad, **grads(module)})
    assert results[0].keys() == results[1].keys()
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_part_of_a_network_around_a_streamed_trunk(use_reentrant: bool) -> None:
    class Around(nn.Module):
        def __init__(self, trunk: nn.Module) -> None:
            super().__init__()
            self.before, self.trunk, self.after = nn.Conv2d(3, 3, 1), trunk, nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Any:
            return self.after(self.trunk(torch.tanh(self.before(x))))

    module = network().eval()
    outer, image = Around(stream(module, strip_rows=5)).double(), torch.randn(2, 3, 33, 21, dtype=torch.float64)
    plain = Around(module).double()
    plain.before, plain.after = outer.before, outer.after
    plain(image.requires_grad_()).square().sum().backward()
    expected = grads(plain)
    plain.zero_grad()
    checkpoint(outer, image, use_reentrant=use_reentrant).square().sum().backward()
    for name, grad in grads(plain).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-12, atol=1e-14, msg=name)


# ---------------------------------------------------------------- images without pixels


@pytest.mark.parametrize("image_grad", [False, True])
def test_empty_batch_is_that_of_the_plain_network(image_grad: bool) -> None:
    module = network().eval()
    trunk = stream(module, strip_rows=4)
    image = torch.zeros(0, 3, 33, 21, dtype=torch.float64, requires_grad=image_grad)
    result = trunk(image)
    assert result.shape == module(image).shape == (0, 2)
    result.sum().backward()
    assert not any(grad.any() for grad in grads(module).values())
    assert grads(module).keys() == {name for name, _ in module.named_parameters()}
    full = torch.randn(2, 3, 33, 21, dtype=torch.float64)
    torch.testing.assert_close(trunk([image.detach(), full]), trunk(full))


def test_model_on_the_meta_device_gives_shapes() -> None:
    model = StreamingResNet("resnet9", weights=None, tile_size=32, train_streaming_layers=True).to("meta")
    result = model(torch.empty(2, 3, 64, 48, device="meta"))
    assert (result.shape, result.device.type) == ((2, 2), "meta")
    result.sum().backward()
    assert model.conv1.weight.grad.is_meta
    assert model(torch.zeros(2, 3, 64, 48, dtype=torch.uint8)).is_meta


def test_layers_made_on_the_meta_device_can_be_forecast() -> None:
    with torch.device("meta"):
        trunk = stream(network(), memory="1MB")
    assert trunk.forecast(200, 100).strips > 1


# ---------------------------------------------------------------- machinery around it


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
@pytest.mark.parametrize("whole", [True, False])
def test_compilation_does_not_go_into_a_streamed_module(whole: bool) -> None:
    from torch._dynamo.testing import CompileCounter

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = stream(network().eval(), strip_rows=4), nn.Linear(2, 2).double()

        def forward(self, x: Tensor) -> Any:
            return self.head(self.trunk(x * 2))

    module, counter = Around(), CompileCounter()
    call = torch.compile(module.trunk if whole else module, backend=counter)
    plain = module.trunk if whole else module
    for height in (33, 21, 45):
        image = torch.randn(1, 3, height, 21, dtype=torch.float64)
        torch.testing.assert_close(call(image), plain(image))
    call(image).sum().backward()
    assert len(grads(module)) >= 10
    assert counter.frame_count <= (0 if whole else 4)


def test_shapes_of_an_example_input_are_summarized(trainer: Callable[..., Any]) -> None:
    model = StreamingResNet("resnet9", weights=None, tile_size=32, train_streaming_layers=True)
    model.example_input_array = torch.zeros(1, 3, 64, 48)
    data = DataLoader([(torch.rand(3, 64, 48), 1)], batch_size=1)
    trainer(max_steps=1, enable_model_summary=True).fit(model, data)
    rows = dict(zip(*(column for name, column in ModelSummary(model)._get_summary_data() if name in
                      ("Name", "Out sizes")), strict=True))  # fmt: skip
    assert rows["layer3"] == "[1, 256, 2, 2]"
    assert rows["fc"] == "[1, 2]"


class Exhausting:
    shape, dtype, name = (3, 64, 48), torch.uint8, "slide.tif"

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def rows(self, start: int, stop: int) -> Tensor:
        raise self.error("no memory for a tile")


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_lack_of_memory_in_a_lazy_image_stays_one(error: type[Exception]) -> None:
    model = StreamingResNet("resnet9", weights=None, tile_size=32)
    with pytest.raises(error, match="no memory for a tile") as caught:
        model(Exhausting(error))
    assert any("rows 0" in note and "'slide.tif'" in note for note in caught.value.__notes__)


def test_default_weights_of_a_network_without_any_say_so() -> None:
    with pytest.raises(ValueError, match=r"resnet9 has no pretrained weights.*weights=None"):
        StreamingResNet("resnet9")


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_streamed_module_is_not_exported_for_one_size() -> None:
    trunk = stream(network().eval(), strip_rows=4)
    with pytest.raises(RuntimeError, match="Export the plain module"):
        torch.jit.trace(trunk, torch.zeros(1, 3, 33, 21, dtype=torch.float64), check_trace=False)


@pytest.mark.parametrize("module", [nn.Conv2d, None, torch.relu, "resnet18"])
def test_what_is_no_module_is_refused(module: Any) -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got"):
        stream(module, strip_rows=4)


@pytest.mark.parametrize("sizes", [{"strip_rows": True}, {"strip_rows": 4, "keeping": "all"}])
def test_sizes_of_other_types_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has to be"):
        stream(network(), **sizes)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.vmap, torch.func.jacrev])
def test_transforms_of_functions_are_refused_with_a_way_out(transform: Any) -> None:
    streamed, image = stream(network().eval(), strip_rows=4), torch.rand(2, 1, 3, 12, 9, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"torch\.func.*torch\.autograd\.grad"):
        transform(lambda x: streamed(x).sum())(image if transform is torch.vmap else image[0])


def test_call_with_other_parameters_is_exact() -> None:
    module, image = network().eval(), torch.rand(1, 3, 33, 21, dtype=torch.float64)
    streamed, results = stream(module, strip_rows=4), []
    others = {name: (1.5 * p).detach().requires_grad_() for name, p in module.named_parameters()}
    for call, prefix in ((module, ""), (streamed, "module.")):
        out = torch.func.functional_call(call, {prefix + name: p for name, p in others.items()}, (image,))
        results.append([out, *torch.autograd.grad(out.square().sum(), list(others.values()))])
    for found, right in zip(*reversed(results), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-14)


def test_maps_of_different_widths_that_meet_say_so() -> None:
    class Centered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - nn.functional.avg_pool2d(x, (1, 9))

    with pytest.raises(ValueError, match=r"maps of 9 and 1 columns meet\. Maps that are joined"):
        stream(Centered(), strip_rows=4)(torch.rand(1, 3, 12, 9))
