"""`stream(module)`: the same module, computed in strips of rows, with exact gradients by a plain ``loss.backward()``.

One `torch.autograd.Function` takes the image and every tensor the network computes with, and returns their gradients.
So optimizers, gradient clipping and accumulation, GradScaler and DistributedDataParallel see nothing unusual.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from streammodels.backprop.autograd import Streamed, leaves, present
from streammodels.backprop.bptt import Pass, TakeRows
from streammodels.backprop.checkpointing import Choice, Keeping
from streammodels.backprop.rng_state import Surroundings
from streammodels.core.engine import NodeTensors
from streammodels.core.image_rows import Image, ImageRows, StripReader, as_image_rows
from streammodels.core.row_plan import RowPlan
from streammodels.memory.budget import Sizes
from streammodels.memory.estimate import StepMemory
from streammodels.memory.forecast import Forecast, make_forecast
from streammodels.memory.summary import layer_table
from streammodels.orientation import Route, Traced, remember, settings
from streammodels.tracing.trace import refuse_hooks, trace


def with_batch(image: Image) -> Image:
    """An image of a list: a (C, H, W) tensor counts as a batch of one."""
    return image[None] if isinstance(image, Tensor) and image.ndim == 3 else image


def put_together(results: list[Tensor]) -> Tensor:
    """The results of several images, one behind the other.

    Raises:
        ValueError: If they differ in shape.
    """
    shapes = [tuple(result.shape[1:]) for result in results]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"the images of the list give results of different shapes, {sorted(set(shapes))}, which cannot be stacked. "
            "End the module in a global pool, or call it on one image after the other."
        )
    return torch.cat(results)


_CACHED_TRACES = 4


def stream(
    module: nn.Module,
    tile_size: int | None = None,
    *,
    strip_rows: int | None = None,
    memory: str | int | None = None,
    keeping: Keeping | None = None,
) -> StreamedModule:
    """Make a module compute in strips of rows, exactly as it does on the whole image.

    Give one of the three sizes. None changes any result beyond rounding; they trade memory against speed. Strips run
    along the longer side of the image: on wide images they are strips of columns.

    Args:
        module: Maps a (B, C, H, W) image to a feature map or, through global pooling, to vectors. Its parameters are
            shared, not copied. Batch normalisations have to be in eval mode when it is called.
        tile_size: A budget of ``tile_size**2`` pixels of each image in flight: strips are that many pixels over the
            shorter side tall.
        strip_rows: Height of the strips in image rows, at least 1.
        memory: Budget for one training step, such as ``"8GB"`` or a number of bytes. What is estimated to be fastest
            within it is chosen, from plain training to the least that works; `StreamedModule.forecast` says what.
        keeping: What is kept for the backward pass. None for the carries of every strip or, with `memory`, what fits.

    Returns:
        A module to call like the original one.

    Raises:
        UnsupportedLayerError: If a layer cannot be streamed exactly.
        ValueError: If none or several sizes are given, or one is not positive.

    Example:
        >>> trunk = stream(torch.nn.Conv2d(3, 8, 3, padding=1), strip_rows=64)
        >>> trunk(torch.rand(1, 3, 1000, 500)).shape
        torch.Size([1, 8, 1000, 500])
    """
    return StreamedModule(module, tile_size=tile_size, strip_rows=strip_rows, memory=memory, keeping=keeping)


class StreamedModule(nn.Module):
    """A module that computes in strips of rows; made by `stream`.

    Attributes:
        module: The original module.
        sizes: The sizes given.
        kernel_pixels: Layers that shrink the image wait until they have so many pixels to compute at once, see
            `Network.row_nodes`. It changes no result; below about 500 kernels are slow.
    """

    kernel_pixels: int = 1024

    def __init__(
        self,
        module: nn.Module,
        *,
        tile_size: int | None = None,
        strip_rows: int | None = None,
        memory: str | int | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        super().__init__()
        self.sizes = Sizes(tile_size, strip_rows, memory, keeping)
        self.module = module
        self._traces: OrderedDict[Any, Traced] = OrderedDict()
        self._channels: int | None = None  # of the last image: what comes first may read some of them only
        self._check()

    def _check(self) -> None:
        """Refuse now what can never be streamed; training flags may still change before the first call."""
        flags = [(layer, layer.training) for layer in self.module.modules()]
        try:
            for layer, _ in flags:
                layer.training = False
            trace(self.module)
        finally:
            for layer, training in flags:
                layer.training = training

    def __getstate__(self) -> dict[str, Any]:
        """Leave the traces behind: they hold functions, and are made again when needed."""
        return {**self.__dict__, "_traces": OrderedDict()}

    def forward(self, image: Image | Sequence[Image]) -> Tensor:
        """Compute the module on a whole image, strip by strip.

        Args:
            image: (B, C, H, W), float, or uint8, whose 0..255 become 0..1. It may lie on another device than the
                parameters (in host memory, say): each strip is moved when its turn comes. Or an object with `shape`
                (C, H, W), `dtype` and ``rows(start, stop)``, whose rows are read in the background. Or a list of such
                images, of any sizes: each is streamed, and the results are put together along the batch dimension.

        Returns:
            What ``module(image)`` returns, equal up to rounding; on the device of the parameters.

        Raises:
            UnsupportedLayerError: If a layer cannot be streamed in the mode it is in, e.g. BatchNorm2d in training.
            ValueError: If an image has not the shape of one, or is too small for the module.
            ImageReadError: If rows of a lazily read image cannot be had.
        """
        traced = self._trace()
        if isinstance(image, Tensor) or not isinstance(image, Sequence):
            return self._compute(traced, image, as_image_rows(image), {})
        if not image:
            raise ValueError("the list of images is empty. Give at least one.")
        images = [with_batch(one) for one in image]
        sources = [as_image_rows(one, f"image {index}") for index, one in enumerate(images)]
        results, computed = [], dict[bool, NodeTensors]()
        for index, (one, source) in enumerate(zip(images, sources, strict=True), start=1):
            results.append(self._compute(traced, one, source, computed, len(sources), last=index == len(sources)))
        return put_together(results)

    def _compute(
        self,
        traced: Traced,
        image: Image,
        source: ImageRows,
        computed: dict[bool, NodeTensors],
        images: int = 1,
        last: bool = True,
    ) -> Tensor:
        """One image, or batch of images of one size.

        It is one of `images` that share the budget, and the weights with batch normalisations folded in, which are
        `computed` for the first of them along either side.
        """
        wanted = isinstance(image, Tensor) and image.requires_grad
        route = traced.route(*source.shape[2:], turns=source.turns)
        if route.sideways not in computed:
            computed[route.sideways] = [node.tensors() for node in route.network.nodes]
        tensors = computed[route.sideways]
        flat = present(tensors)
        if not (torch.is_grad_enabled() and (wanted or any(tensor.requires_grad for tensor in flat))):
            job = self._job(route, source, tensors, None, images)
            return route.finish(job.finish(job.forward(), tensors))
        job = self._job(route, source, leaves(tensors), wanted, images, last)
        values = Streamed.apply(job, image if isinstance(image, Tensor) else None, *flat)
        return route.finish(job.finish(values, tensors))

    def _job(
        self,
        route: Route,
        source: ImageRows,
        tensors: NodeTensors,
        image_grad: bool | None,
        images: int = 1,
        last: bool = True,
    ) -> Pass:
        """The pass over one image; `image_grad` says whether its gradient is wanted, None that no gradient is."""
        source.sideways = route.sideways
        self._channels = source.shape[1]
        floating = next((tensor for tensor in present(tensors) if tensor.is_floating_point()), None)
        device = source.device if floating is None else floating.device
        reader = StripReader(source, device, torch.get_default_dtype() if floating is None else floating.dtype)
        batch, (height, width) = source.shape[0], source.extent
        memory = self._memory(route, tensors, batch, source.shape[1], height, width, bool(image_grad), images)
        choice = self._choice(route, memory, device)
        plan = route.plan(batch, height, width, choice.strip_rows, self.kernel_pixels)
        keeping = None if image_grad is None else choice.keeping
        if keeping is not None and not last:  # the backward pass comes to it later: its graphs would only wait
            keeping = replace(keeping, graphs=0)
        surroundings = Surroundings.capture(route.network, device)
        return Pass(route.engine, plan, reader, surroundings, tensors, bool(image_grad), keeping)

    def _memory(
        self,
        route: Route,
        tensors: NodeTensors,
        batch: int,
        channels: int | None,
        height: int,
        width: int,
        image_grad: bool = False,
        images: int = 1,
    ) -> StepMemory:
        """Estimates for a batch of images of one size as the strips see it; a list of `images` such batches."""
        needs = tuple(route.engine.needs_grad(tensors, image_grad))
        return StepMemory(route.engine, needs, batch, channels, height, width, self.kernel_pixels, images)

    def _choice(self, route: Route, memory: StepMemory, device: torch.device) -> Choice:
        """Strip height and what is kept, remembered for the next image of that size."""
        key = (memory.key, self.sizes, device.type)
        if key not in route.choices:
            route.check(memory.height, memory.width)
            remember(route.choices, key, self.sizes.choose(memory, device.type))
        return route.choices[key]

    def image_gradient(self, image: Image, score: Callable[[Tensor], Tensor], take: TakeRows) -> Tensor:
        """The gradient of a score with respect to the image, handed out strip by strip: it never has to be whole.

        Parameters get no gradient, whatever their ``requires_grad``.

        Args:
            image: A (B, C, H, W) tensor, or an image read by rows. uint8 counts as floats from 0 to 1.
            score: Maps what ``self(image)`` returns to one number.
            take: Called as ``take(rows, gradient)`` with a range of rows and their (B, C, rows, W) gradient, on the
                device that computes; from the last rows to the first, every row once.

        Returns:
            The score.
        """
        traced, source = self._trace(), as_image_rows(image)
        route = traced.upright
        tensors = [[None if t is None else t.detach() for t in node.tensors()] for node in route.network.nodes]
        job = self._job(route, source, tensors, image_grad=True)
        values = [value.requires_grad_() for value in job.forward()]
        with torch.enable_grad():
            result = score(route.finish(job.finish(values, tensors)))
        # Zeros for what a pool hands on without a gradient, such as the largest score.
        job.backward(torch.autograd.grad(result, values, materialize_grads=True), take)
        return result.detach()

    def plan(self, height: int, width: int) -> RowPlan:
        """The integer plan for images of `height` x `width` pixels: the rows every node emits and carries, by strip.

        Where the width is the longer side strips run along it, and the plan's rows are columns.
        """
        route = self._trace().route(height, width)
        extent = route.extent(height, width)
        memory, _, device = self._expected(route, 1, *extent)
        choice = self._choice(route, memory, device)
        return route.plan(1, *extent, choice.strip_rows, self.kernel_pixels)

    def _expected(
        self, route: Route, batch: int, height: int, width: int
    ) -> tuple[StepMemory, NodeTensors, torch.device]:
        """Estimates for images that are not there yet, with what weights, and where they will be computed."""
        tensors = [node.tensors() for node in route.network.nodes]
        device = next((tensor.device for tensor in present(tensors)), torch.device("cpu"))
        return self._memory(route, tensors, batch, self._channels, height, width), tensors, device

    def forecast(self, height: int, width: int, batch: int = 1) -> Forecast:
        """What a training step on `batch` images of `height` x `width` pixels will take: bytes, operations, strips.

        It depends on which parameters are trained. The image itself, the parameters and the optimizer are not counted.
        Memory is an estimate; operations are exact.
        """
        route = self._trace().route(height, width)
        memory, tensors, device = self._expected(route, batch, *route.extent(height, width))
        return make_forecast(memory, tensors, self._choice(route, memory, device), route.sideways)

    def summary(self, height: int, width: int) -> str:
        """A table, as text: stride, receptive field, carried rows and bytes of every layer."""
        route = self._trace().route(height, width)
        plan = self.plan(height, width)
        return layer_table(route.network, plan, *route.extent(height, width), route.sideways, self._channels)

    def alike(self, module: nn.Module) -> StreamedModule:
        """Another module, streamed with the same sizes."""
        other = StreamedModule(module, **vars(self.sizes))
        other.kernel_pixels = self.kernel_pixels
        return other

    def extra_repr(self) -> str:
        """The size given, for ``print(module)``."""
        return str(self.sizes)

    def _trace(self) -> Traced:
        """The trace for the modules, their settings and training flags of now."""
        refuse_hooks(self.module)
        key = tuple(settings(layer) for layer in self.module.modules())
        if key not in self._traces:
            self._traces[key] = Traced(trace(self.module))
            if len(self._traces) > _CACHED_TRACES:
                self._traces.popitem(last=False)
        return self._traces[key]
