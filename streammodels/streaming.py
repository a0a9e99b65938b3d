"""Streaming of a module over an image in strips of rows, with exact outputs and gradients.

One `torch.autograd.Function` takes the image and every tensor of the network, and returns their gradients. So
optimizers, gradient clipping and accumulation, GradScaler and DistributedDataParallel work unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from streammodels.backprop.autograd import StreamedFunction, detach, detach_as_leaves, flat_tensors
from streammodels.backprop.bptt import ImagePass, RowGradCallback
from streammodels.backprop.checkpointing import Keeping, Schedule
from streammodels.backprop.rng_state import RngState
from streammodels.calls import Images, calls_of, concatenate
from streammodels.cases import ImageOfCase, check_poolable, check_same_tail, finish_case
from streammodels.core.engine import NodeTensors
from streammodels.core.frozen_prefix import nodes_needing_grad
from streammodels.core.image_rows import Image, ImageRows
from streammodels.core.network import Network
from streammodels.core.reductions import Reduction
from streammodels.core.row_plan import RowPlan
from streammodels.core.strip_reader import InputReader, StripReader
from streammodels.core.tensors.memory_format import format_of_weights
from streammodels.errors import EmptyMaskError, UnsupportedLayerError
from streammodels.memory.budget import Sizes
from streammodels.memory.estimate import StepMemory
from streammodels.memory.forecast import Forecast, make_forecast
from streammodels.memory.shapes import InputShape
from streammodels.memory.summary import layer_table
from streammodels.orientation import ONE_IMAGE, Orientation, PassOptions, Planned, TracedModule
from streammodels.stages.execution import StagedExecution
from streammodels.stages.run import StagedNetwork
from streammodels.stages.waiting import GlobalStatistics, Waiting, WaitingMaps
from streammodels.tracing.fx_graph import Arguments, TracedInput, UnknownSizeError
from streammodels.tracing.layers import check_layers, is_summarized
from streammodels.tracing.parametrizations import is_parametrized, reading_undone
from streammodels.tracing.trace import trace


def stream(
    module: nn.Module,
    tile_size: int | None = None,
    *,
    strip_rows: int | None = None,
    memory: str | int | None = None,
    keeping: Keeping | None = None,
    global_statistics: GlobalStatistics | None = None,
    spill_dir: str | PathLike[str] | None = None,
) -> StreamedModule:
    """A module computed in strips of rows, with the outputs and gradients of the whole image.

    Pass one of the three sizes, or none: then a step may take three quarters of what is free on a CUDA device at the
    first call; on others ``tile_size=2880`` holds. Sizes trade memory for speed, and change results by rounding only.
    Strips run along the longer side of the image; on wide images they are strips of columns.

    Args:
        module: Maps a (B, C, H, W) image to a feature map or, through global pooling, to vectors. Its parameters are
            shared, not copied. Batch normalization has to be in eval mode when it is called.
        tile_size: Upper bound, the side of a square tile in pixels: strips have at most ``tile_size**2`` pixels of each
            image, and a step no more memory than with such strips. The fastest schedule within it is chosen.
        strip_rows: Height of the strips in image rows, at least 1, exactly. Other heights are chosen by timing on
            CUDA, so that they, and with them the rounding of results, may differ from run to run.
        memory: Budget for one training step, such as ``"8GB"`` or a number of bytes. The fastest schedule within it, as
            estimated, is chosen, plain training if it fits; `StreamedModule.forecast` tells which.
        keeping: What is kept for the backward pass. None for the carries of every strip or, with `memory`, what fits.
        global_statistics: "host" to compute layers that read statistics of a whole map, such as squeeze-and-excitation.
            The network is then cut in front of each, and the maps at the cuts wait in host memory, in their own type.
            None to refuse such layers.
        spill_dir: Folder for files in which these maps wait instead. They need its space, and are removed by the end.

    Returns:
        A module to call like the original one.

    Raises:
        UnsupportedLayerError: If a layer cannot be streamed exactly.
        TypeError: If `module` is no module.
        ValueError: If several sizes are passed, or one is not positive.

    Example:
        >>> trunk = stream(torch.nn.Conv2d(3, 8, 3, padding=1), strip_rows=64)
        >>> trunk(torch.rand(1, 3, 1000, 500)).shape
        torch.Size([1, 8, 1000, 500])
    """
    return StreamedModule(
        module,
        tile_size=tile_size,
        strip_rows=strip_rows,
        memory=memory,
        keeping=keeping,
        global_statistics=global_statistics,
        spill_dir=spill_dir,
    )


class StreamedModule(nn.Module):
    """A module computed in strips of rows, made by `stream`.

    Attributes:
        module: The original module.
        sizes: The sizes passed.
        kernel_pixels: Layers with a stride wait until they have so many pixels to compute at once, see
            `Network.row_nodes`. It changes no result; below about 500, kernels are slow.
        timed_strips: Whether strips of several heights are timed before the height is chosen, once per network and kind
            of device, so that it may differ from run to run. None for CUDA only; False to choose by assumption.
    """

    kernel_pixels: int = 1024
    timed_strips: bool | None = None
    is_streamed: ClassVar[bool] = True

    def __init__(
        self,
        module: nn.Module,
        *,
        tile_size: int | None = None,
        strip_rows: int | None = None,
        memory: str | int | None = None,
        keeping: Keeping | None = None,
        global_statistics: GlobalStatistics | None = None,
        spill_dir: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        _check_module(module)
        self.sizes = Sizes(tile_size, strip_rows, memory, keeping)
        self.waiting = Waiting(global_statistics, spill_dir)
        self.module = module
        self._planned = Planned()
        self._arguments: Arguments | None = None  # of the last call, with the channels of its images
        self._check()

    def _check(self) -> None:
        """Raise now for what cannot be streamed in eval mode; training flags may change before the first call."""
        flags = [(layer, layer.training) for layer in self.module.modules()]
        try:
            for layer, _ in flags:
                layer.training = False
            with suppress(UnknownSizeError):
                self._trace_unnoticed()
        finally:
            for layer, training in flags:
                layer.training = training

    def __getstate__(self) -> dict[str, Any]:
        """All but the plans, which are made again on demand."""
        return {**self.__dict__, "_planned": None, "_arguments": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The state of `__getstate__`."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._planned = Planned()

    def forward(self, image: Images, *further: Any, **options: Any) -> Any:
        """What the module returns for a whole image, computed strip by strip.

        Args:
            image: (B, C, H, W), float, or uint8 (0..255, scaled to 0..1). It may be on another device than the
                parameters, in host memory for example; strips are moved one at a time. Or an object with `shape`
                (C, H, W), `dtype` and ``rows(start, stop)``, whose rows are read in the background. Or a list of such
                images, of any sizes, whose results are concatenated along the batch dimension. A list in this list is a
                case, images that are pooled together, as if they were one, to one result.
            further: Further arguments of the module. Those that are images, or `Labels`, of the same batch and of any
                height and width, are read strip by strip too; lists of them go with a list of images, nested alike. All
                others are passed on.
            options: Likewise, by name.

        Returns:
            ``module(image, ...)`` up to rounding, on the device of the parameters: a tensor, or tensors in tuples,
            lists and dicts.

        Raises:
            UnsupportedLayerError: If a layer cannot be streamed in its mode, e.g. BatchNorm2d in training mode.
            ValueError: If an image has the wrong shape, or is too small for the module.
            ImageReadError: If rows of a lazy image cannot be read.
        """
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError(
                "a streamed module cannot be traced or exported, because its strips depend on the size of the image. "
                "Export the plain module, with the same weights: its attribute 'module'."
            )
        if torch.compiler.is_compiling():  # strips have no fixed shapes: the rest of the model is compiled around them
            return torch.compiler.disable(self._stream)(image, further, options)  # type: ignore[no-untyped-call]
        if torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                "a streamed module cannot be transformed by torch.func (grad, vjp, vmap, jvp). Use "
                "torch.autograd.grad on its result, or transform the plain module: its attribute 'module'."
            )
        return self._stream(image, further, options)

    def _stream(self, image: Images, further: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """See `forward`."""
        calls = calls_of(image, further, options)
        if is_summarized(self.module):  # Lightning reads the shapes of its example_input_array off every layer
            return concatenate([call.whole(self.module) for call in calls if call.ends_sample])
        sources = [None if self._has_no_pixels(call.image) else call.sources() for call in calls]
        results, computed = [], dict[bool, NodeTensors]()
        traced: TracedModule | None = None
        pooled: TracedModule | None = None  # the last whose tail was checked
        known: Arguments | None = None
        case: list[ImageOfCase] = []
        for index, (call, source) in enumerate(zip(calls, sources, strict=True)):
            if source is None:
                results += [call.whole(self.module)] if call.ends_sample else []
                continue
            arguments = call.arguments(source, self._dtype)
            if traced is None or known is None or not arguments.alike(known, traced.network.depends_on_size):
                traced, known, computed = self._trace(arguments), arguments, {}
            own = PassOptions(len(calls), index == len(calls) - 1)
            try:
                if call.of_case is None:
                    results.append(self._compute(traced, source, arguments, computed, own))
                    continue
                if call.of_case[1] > 1 and pooled is not traced:
                    self._check_tail(traced, arguments)
                    pooled = traced
                case.append(self._image_of_case(traced, source, arguments, computed, own))
                if call.ends_sample:
                    results.append(finish_case(case))
                    case = []
            except EmptyMaskError as error:
                raise call.named(error) from None
        return concatenate(results)

    def sizes_on(self, device: torch.device) -> Sizes:
        """The sizes passed or, if none was, those that were chosen for a device when they were needed first."""
        return self._planned.sizes_on(self.sizes, device)

    @property
    def _device(self) -> torch.device:
        """The device that computes."""
        return next((one.device for one in chain(self.module.parameters(), self.module.buffers())), torch.device("cpu"))

    @property
    def _dtype(self) -> torch.dtype:
        """Type of the floats that the module gets."""
        tensors = chain(self.module.parameters(), self.module.buffers())
        return next((one.dtype for one in tensors if one.is_floating_point()), torch.get_default_dtype())

    def _has_no_pixels(self, image: Image) -> bool:
        """Whether there is nothing to compute strip by strip: an empty batch, or layers on the meta device."""
        if isinstance(image, Tensor) and image.ndim == 4 and image.shape[0] == 0:
            return all(image.shape[1:])
        tensor = next(chain(self.module.parameters(), self.module.buffers()), image)
        return isinstance(tensor, Tensor) and tensor.is_meta

    def _compute(
        self,
        traced: TracedModule,
        sources: Sequence[ImageRows],
        arguments: Arguments,
        computed: dict[bool, NodeTensors],
        options: PassOptions,
    ) -> Any:
        """The output for one image, or batch of images of one size.

        It may be one of several that share the tensors of the network, with batch normalization folded in, which are
        `computed` for the first image of each orientation, or for every image if reading them has effects.
        """
        self._arguments = arguments
        staged = self._staged(traced.network)
        if staged is not None:
            return staged.compute(sources, arguments.inputs, options)
        orientation, tensors = self._oriented(traced, sources, computed)
        return orientation.finish(self._values(orientation, sources, arguments.inputs, tensors, options))

    def _oriented(
        self, traced: TracedModule, sources: Sequence[ImageRows], computed: dict[bool, NodeTensors]
    ) -> tuple[Orientation, NodeTensors]:
        """The orientation for an image, and the tensors of its nodes."""
        orientation = traced.orientation(*sources[0].shape[2:], all(source.has_columns for source in sources))
        if orientation.sideways not in computed or is_parametrized(self.module):
            computed[orientation.sideways] = orientation.tensors()
        return orientation, computed[orientation.sideways]

    def _check_tail(self, traced: TracedModule, arguments: Arguments) -> None:
        """Check that what is computed of a case does not depend on the size of one image; see `finish_case`."""
        if traced.network.depends_on_size:
            batch, _, height, width = arguments.inputs[0].known_shape
            larger = self._trace_unnoticed(arguments.resized(batch, 2 * height, width))
            check_same_tail(traced.network, larger.network)

    def _image_of_case(
        self,
        traced: TracedModule,
        sources: Sequence[ImageRows],
        arguments: Arguments,
        computed: dict[bool, NodeTensors],
        options: PassOptions,
    ) -> ImageOfCase:
        """The partial results of one image of a case; see `_compute`."""
        check_poolable(traced.network)
        self._arguments = arguments
        orientation, tensors = self._oriented(traced, sources, computed)
        image_pass, values = self._run(orientation, sources, arguments.inputs, tensors, options)
        return ImageOfCase(orientation.network, image_pass, values, tensors)

    def _values(
        self,
        orientation: Orientation,
        sources: Sequence[ImageRows],
        inputs: Sequence[TracedInput],
        tensors: NodeTensors,
        options: PassOptions = ONE_IMAGE,
    ) -> list[Tensor]:
        """The values of the boundary nodes, connected by autograd."""
        image_pass, values = self._run(orientation, sources, inputs, tensors, options)
        return image_pass.finish(values, tensors)

    def _run(
        self,
        orientation: Orientation,
        sources: Sequence[ImageRows],
        inputs: Sequence[TracedInput],
        tensors: NodeTensors,
        options: PassOptions = ONE_IMAGE,
    ) -> tuple[ImagePass, Sequence[Tensor]]:
        """The pass of an image whose strips are computed, and its result connected by autograd."""
        orientation.check_channels(tensors, sources)
        flat = flat_tensors(tensors)
        pixels = [source.tensor for source in sources]
        needing = [i for i, own in zip(orientation.network.inputs, sources, strict=True) if own.needs_grad]
        differentiable = torch.is_grad_enabled() and (needing or any(tensor.requires_grad for tensor in flat))
        leaves, needing_grad = detach_as_leaves(tensors), frozenset(needing) if differentiable else None
        image_pass = self._image_pass(orientation, sources, inputs, leaves, needing_grad, options)
        if differentiable:
            return image_pass, StreamedFunction.apply(image_pass, *pixels, *flat)
        return image_pass, image_pass.forward()

    def _image_pass(
        self,
        orientation: Orientation,
        sources: Sequence[ImageRows],
        inputs: Sequence[TracedInput],
        tensors: NodeTensors,
        inputs_needing_grad: frozenset[int] | None,
        options: PassOptions = ONE_IMAGE,
    ) -> ImagePass:
        """The pass of one image; `inputs_needing_grad` is None if there is no backward pass."""
        for source in sources:
            source.sideways = orientation.sideways
        floating = next((tensor for tensor in flat_tensors(tensors) if tensor.is_floating_point()), None)
        device = sources[0].device if floating is None else floating.device
        dtype = torch.get_default_dtype() if floating is None else floating.dtype
        read = zip(orientation.network.inputs, sources, strict=True)
        layout = format_of_weights(flat_tensors(tensors))
        reader = InputReader({index: StripReader(source, device, dtype, layout) for index, source in read}, device)
        needing = inputs_needing_grad or frozenset()
        memory = self._memory(orientation, tensors, inputs, needing, options.new_map, options.images)
        schedule = orientation.schedule(memory, options.sizes or self.sizes_on(device), device, self.timed_strips)
        plan = orientation.plan(memory, schedule.strip_rows)
        keeping = None if inputs_needing_grad is None else schedule.keeping
        if keeping is not None and not options.last:  # its backward pass comes after others: its graphs would wait
            keeping = replace(keeping, graphs=0)
        rng_state = RngState.capture(orientation.network, device)
        return ImagePass(orientation.engine, plan, reader, rng_state, tensors, needing, keeping, options.new_map)

    def _memory(
        self,
        orientation: Orientation,
        tensors: NodeTensors,
        inputs: Sequence[TracedInput],
        inputs_needing_grad: Collection[int] = (),
        elsewhere: Collection[int] = (),
        images: int = 1,
    ) -> StepMemory:
        """Estimates for a list of `images` batches of images of one size as the strips see it."""
        engine = orientation.engine
        needs_grad = tuple(nodes_needing_grad(engine.nodes, tensors, inputs_needing_grad))
        (batch, channels, *_), *others = shapes = [one.known_shape for one in inputs]
        (height, width), *_ = extents = [orientation.extent(*shape[2:]) for shape in shapes]
        further = tuple(
            InputShape(own[1], *extent, None if one.dtype is None or one.dtype.is_floating_point else one.dtype)
            for one, own, extent in zip(inputs[1:], others, extents[1:], strict=True)
        )
        size = (batch, channels or None, height, width, self.kernel_pixels)
        added_together = self._device.type != "cpu"
        return StepMemory(engine, tensors, needs_grad, *size, images, further, frozenset(elsewhere), added_together)

    def _one_image(
        self, image: Image, further: Sequence[Any] = (), options: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[list[ImageRows], Arguments]:
        """The rows of one image and its further inputs, and what the forward is recorded with."""
        call, *others = calls_of(image, further, options)
        if others:
            raise ValueError(
                f"expected one image, or a batch of one size, got a list of {1 + len(others)}. Call it on each."
            )
        sources = call.sources()
        return sources, call.arguments(sources, self._dtype)

    @torch.no_grad()
    def map_on_disk(self, image: Image, folder: str | PathLike[str], *further: Any, **options: Any) -> Any:
        """What the module returns for one image, without gradients, with its maps in files instead of memory.

        Args:
            image: See `forward`; no list.
            folder: Where the maps lie. Their files have no name, and are freed with the tensors.
            further: See `forward`.
            options: See `forward`.

        Returns:
            As `forward`, on the host, maps as tensors that are read from disk on use.

        Raises:
            UnsupportedLayerError: If the module computes with its maps after they are whole.
            OSError: If there is no space for a map, naming the folder.
        """
        sources, arguments = self._one_image(image, further, options)
        orientation = self._trace(arguments).upright
        network = orientation.network
        if network.tail is not None or network.vectors is not None:
            reason = "it computes with values of whole maps, which would be read into memory"
            raise UnsupportedLayerError(type(self.module).__name__, reason, "Call the streamed module.")
        new = WaitingMaps(Path(folder), self._device).new
        maps = [index for index in network.boundary if not isinstance(network.nodes[index].rule, Reduction)]
        tensors = orientation.tensors()
        on_disk = PassOptions(new_map=dict.fromkeys(maps, new))
        return orientation.finish(self._values(orientation, sources, arguments.inputs, tensors, on_disk))

    def image_gradient(self, image: Image, score: Callable[[Tensor], Tensor], take: RowGradCallback) -> Tensor:
        """The gradient of a score with respect to the image, strip by strip, so that it is never whole in memory.

        Parameters get no gradient, whatever their ``requires_grad``.

        Args:
            image: A (B, C, H, W) tensor, or an image read by rows. uint8 counts as floats from 0 to 1.
            score: Maps the result of ``self(image)`` to one number.
            take: Called as ``take(rows, gradient)`` with a range of rows and their (B, C, rows, W) gradient, on the
                device that computes, from the last rows to the first, every row once.

        Returns:
            The score.
        """
        sources, arguments = self._one_image(image)
        traced = self._trace(arguments)
        self._arguments = arguments
        staged = self._staged(traced.network)
        if staged is not None:
            return staged.image_gradient(sources, score, take)
        orientation = traced.upright
        tensors = detach(orientation.tensors())
        image_pass = self._image_pass(orientation, sources, arguments.inputs, tensors, frozenset({0}))
        values = [value.requires_grad_() for value in image_pass.forward()]
        with torch.enable_grad():
            result = score(orientation.finish(image_pass.finish(values, tensors)))
        # Zeros for values without a gradient, such as the largest score of attention.
        image_pass.backward(torch.autograd.grad(result, values, materialize_grads=True), {0: take})
        return result.detach()

    def plan(self, height: int, width: int) -> RowPlan:
        """The row plan for images of `height` x `width` pixels, the rows that every node emits and carries, by strip.

        Where the width is the longer side, strips run along it, and the rows of the plan are columns.
        """
        orientation, memory, schedule = self._expected(height, width)
        return orientation.plan(memory, schedule.strip_rows)

    def _expected(self, height: int, width: int, batch: int = 1) -> tuple[Orientation, StepMemory, Schedule]:
        """Orientation, estimates and schedule for images that are not loaded."""
        traced, arguments = self._traced_for(height, width, batch)
        if traced.network.vectors is not None:
            path = traced.network.nodes[min(traced.network.vectors.read)].path
            reason = "it reads statistics of a whole map, so that each stage has a row plan of its own"
            raise UnsupportedLayerError(path, reason, "Call summary() or forecast().")
        orientation = traced.orientation(height, width)
        with reading_undone(self.module):
            tensors = orientation.tensors()
        device = next((tensor.device for tensor in flat_tensors(tensors)), torch.device("cpu"))
        memory = self._memory(orientation, tensors, arguments.inputs)
        return orientation, memory, orientation.schedule(memory, self.sizes_on(device), device, self.timed_strips)

    def _traced_for(self, height: int, width: int, batch: int = 1) -> tuple[TracedModule, Arguments]:
        """The module, and arguments like those of the last call, for images that are not loaded."""
        arguments = (self._arguments or Arguments.required(self.module)).resized(batch, height, width)
        return self._trace_unnoticed(arguments), arguments

    def _staged(self, network: Network) -> StagedExecution | None:
        """The computation of a network in stages; None if it has one stage."""
        if network.vectors is None:
            return None
        return StagedExecution(self, StagedNetwork(network, self._planned), self._device)

    def forecast(self, height: int, width: int, batch: int = 1) -> Forecast:
        """Memory, operations and strips of a training step on `batch` images of `height` x `width` pixels.

        They depend on which parameters are trained. The image itself, the parameters and the optimizer are not counted.
        Memory is an estimate; operations are exact.
        """
        traced, arguments = self._traced_for(height, width, batch)
        staged = self._staged(traced.network)
        if staged is not None:
            return staged.forecast(arguments.inputs)
        orientation, memory, schedule = self._expected(height, width, batch)
        return make_forecast(memory, schedule, orientation.sideways)

    def summary(self, height: int, width: int) -> str:
        """A table, as text, of stride, receptive field, carried rows and bytes of every layer."""
        traced, arguments = self._traced_for(height, width)
        staged = self._staged(traced.network)
        if staged is not None:
            return staged.summary(arguments.inputs)
        orientation, memory, schedule = self._expected(height, width)
        plan = orientation.plan(memory, schedule.strip_rows)
        return layer_table(orientation.network, plan, memory.shapes, orientation.sideways)

    def alike(self, module: nn.Module) -> StreamedModule:
        """Another module streamed with the same sizes."""
        other = StreamedModule(module, **vars(self.sizes), **vars(self.waiting))
        other.kernel_pixels, other.timed_strips = self.kernel_pixels, self.timed_strips
        return other

    def extra_repr(self) -> str:
        """The size passed, for ``print(module)``."""
        return str(self.sizes)

    def _trace(self, arguments: Arguments | None = None) -> TracedModule:
        """The module as it is now: its forward runs again, since it may read anything, such as lists and globals."""
        check_layers(self.module)
        return TracedModule(trace(self.module, arguments, self.waiting.is_allowed), self._planned)

    def _trace_unnoticed(self, arguments: Arguments | None = None) -> TracedModule:
        """The same without a computation to follow, so that random numbers which the forward draws are drawn again."""
        with torch.random.fork_rng(devices=[]):
            return self._trace(arguments)


def _check_module(module: object) -> None:
    if not isinstance(module, nn.Module):
        found = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
        raise TypeError(f"stream() takes an object of a torch.nn.Module, got {found}. Make the network first.")
