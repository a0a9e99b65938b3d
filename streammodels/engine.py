"""One strip through the network, and all strips forwards and backwards: the engine that follows the plan.

    strip 0      strip 1      strip 2          forward, without autograd
    rows 0..h    rows h..2h   rows 2h..H
       |            |            |
     [net] -c1->  [net] -c2->  [net]           c: the carries, a few rows of each layer that looks beyond its own row
       |            |            |
      y0           y1           y2

A strip is one step of a recurrent network whose state is the carries. The backward pass is back-propagation through
time, complete: strips from last to first, each recomputed with autograd from its rows and the carries that entered it;
the gradient of its carries is handed to the strip before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from .joining import join_rows, last_rows
from .network import Network
from .rows import RowPlan
from .rules import AveragePool, ChannelDropout, Convolution, FrozenBatchNorm, Join, MaxPool, Pointwise, Reduction

Carries = dict[int, Tensor]
NodeTensors = Sequence[Sequence[Tensor | None]]


@dataclass
class Surroundings:
    """What of torch's global state a strip depends on, kept so that its recomputation sees the same.

    Attributes:
        autocast: (device type, enabled, dtype) for each device type involved.
        seeds: One seed for every node that drops whole channels, drawn once per pass.
        random_states: Random-number states at the start of every strip, if a layer draws numbers.
    """

    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    seeds: dict[int, int]
    random_states: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    @classmethod
    def capture(cls, network: Network, device: torch.device) -> Surroundings:
        """Read the state of the calling thread."""
        kinds = {"cpu", device.type}
        autocast = tuple((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds)
        dropping = [index for index, node in enumerate(network.nodes) if isinstance(node.rule, ChannelDropout)]
        return cls(autocast, {index: int(torch.randint(2**62, ()).item()) for index in dropping})

    def note_random_state(self, device: torch.device) -> None:
        """Remember the random state at the start of the next strip."""
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self.random_states.append((torch.get_rng_state(), on_device))

    def restore(self, stack: ExitStack, strip: int, device: torch.device) -> None:
        """Enter the state of a strip; leaving `stack` ends it."""
        self.enter_autocast(stack)
        if self.random_states:
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            on_host, on_device = self.random_states[strip]
            torch.set_rng_state(on_host)
            if on_device is not None:
                torch.cuda.set_rng_state(on_device, device)

    def enter_autocast(self, stack: ExitStack) -> None:
        """Enter autocast as it was, without its cache: a weight cast here must not be found by code outside."""
        for kind, enabled, dtype in self.autocast:
            stack.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=False))


@dataclass
class Strip:
    """What one strip yields.

    Attributes:
        emitted: Rows, or partial reductions, of the boundary nodes.
        carries: Rows to keep for the next strip.
        reduced: Width and dtype of the rows that went into each partial reduction.
    """

    emitted: dict[int, Tensor] = field(default_factory=dict)
    carries: Carries = field(default_factory=dict)
    reduced: dict[int, tuple[int, torch.dtype]] = field(default_factory=dict)


class Engine:
    """Runs a network along a row plan, one strip at a time."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes = network.nodes
        readers = network.readers()
        self.last_reader = [max(r, default=-1) for r in readers]
        self._in_place = [self._is_free_to_overwrite(index, readers) for index in range(len(self.nodes))]
        self._read_by_relu = [len(r) == 1 and self._in_place[r[0]] and self._is_relu(r[0]) for r in readers]

    def _is_free_to_overwrite(self, index: int, readers: list[list[int]]) -> bool:
        """Whether an activation may overwrite its input: a fresh result that nobody else reads."""
        node = self.nodes[index]
        if not isinstance(node.rule, Pointwise) or node.rule.in_place is None:
            return False
        source = node.inputs[0]
        fresh = isinstance(self.nodes[source].rule, Convolution | FrozenBatchNorm | Join)
        return fresh and readers[source] == [index] and source not in self.network.boundary

    def _is_relu(self, index: int) -> bool:
        rule = self.nodes[index].rule
        return isinstance(rule, Pointwise) and rule.in_place is functional.relu_

    def works_in_place(self, index: int) -> bool:
        """Whether a node overwrites its input."""
        return self._in_place[index]

    def is_read_by_relu(self, index: int) -> bool:
        """Whether a node is read by nothing but a ReLU that may overwrite it."""
        return self._read_by_relu[index]

    def awake(self, plan: RowPlan, strip: int) -> list[bool]:
        """For every node whether its rows are read in the strip; pointwise work for nobody is left out."""
        result = [i in self.network.boundary and len(plan.new(i, strip)) > 0 for i in range(len(self.nodes))]
        for index in reversed(range(1, len(self.nodes))):
            node = self.nodes[index]
            works = result[index] if node.transparent else len(plan.new(index, strip)) > 0
            for source in node.inputs if works else ():
                result[source] = True
        return result

    def step(
        self,
        plan: RowPlan,
        strip: int,
        image_rows: Tensor,
        carries: Carries,
        tensors: NodeTensors,
        seeds: dict[int, int],
    ) -> Strip:
        """Send the rows of one strip through the network.

        Args:
            plan: The plan for the height of the image.
            strip: Number of the strip.
            image_rows: (B, C, rows, W), the rows of this strip.
            carries: Rows kept by the strip before, by node.
            tensors: Weights and statistics of every node.
            seeds: Seeds of the channel-dropping nodes.
        """
        return self.run(plan, strip, tensors, seeds).through(image_rows, carries)

    def run(self, plan: RowPlan, strip: int, tensors: NodeTensors, seeds: dict[int, int]) -> StripRun:
        """What `step` uses; a place to watch the values from."""
        return StripRun(self, plan, strip, tensors, seeds)


class StripRun:
    """One strip on its way through the network.

    Attributes:
        buffers: The rows of every node that its readers see in this strip, carried ones first; None when released.
        activated: Nodes whose buffer has already passed the ReLU that reads it.
    """

    def __init__(self, engine: Engine, plan: RowPlan, strip: int, tensors: NodeTensors, seeds: dict[int, int]) -> None:
        self.engine = engine
        self.nodes = engine.nodes
        self.plan = plan
        self.strip = strip
        self.tensors = tensors
        self.seeds = seeds
        self.buffers: list[Tensor | None] = [None] * len(engine.nodes)
        self.activated: set[int] = set()
        self.result = Strip()

    def through(self, image_rows: Tensor, carries: Carries) -> Strip:
        """Run all nodes; an error of torch says in which layer it arose."""
        awake = self.engine.awake(self.plan, self.strip)
        for index, node in enumerate(self.nodes):
            try:
                if node.transparent:
                    rows = self._pointwise(index) if awake[index] else None
                    self.buffers[index] = rows
                else:
                    rows = image_rows if index == 0 else self._emit(index)
                    self._join_carry(index, rows, carries.get(index))
            except RuntimeError as error:
                new = self.plan.new(index, self.strip)
                error.add_note(
                    f"in layer '{node.path}' of the streamed network, output rows {new.start}..{new.stop - 1}"
                )
                raise
            if index in self.engine.network.boundary and rows is not None:
                new = self.plan.new(index, self.strip)
                self.result.emitted[index] = self._take(index, new) if node.transparent else rows
            self.release(index)
        return self.result

    def release(self, index: int) -> None:
        """Let go of the rows that nobody reads after node `index`, so that memory can be used again."""
        for source in self.nodes[index].inputs:
            if self.engine.last_reader[source] == index:
                self.buffers[source] = None

    def _join_carry(self, index: int, rows: Tensor | None, carry: Tensor | None) -> None:
        """Put the carried rows in front of the new ones, and set aside what the next strip will need."""
        if isinstance(self.nodes[index].rule, Reduction):
            return
        keep, kept = len(self.plan.carried(index, self.strip)), None
        if carry is not None and rows is not None:
            relu = self.engine.is_read_by_relu(index)
            self.buffers[index], kept = join_rows(carry, rows, keep, relu)
            if relu:
                self.activated.add(index)
        else:
            only = carry if rows is None else rows
            self.buffers[index] = only
            kept = None if only is None else last_rows(None, only, keep)
        if kept is not None:
            self.result.carries[index] = kept

    def _take(self, source: int, wanted: range) -> Tensor:
        """Rows `wanted` of a node, out of those it holds."""
        rows, held = self.buffers[source], self.plan.held(source, self.strip)
        assert rows is not None
        assert held.start <= wanted.start <= wanted.stop <= held.stop
        return rows if wanted == held else rows[:, :, wanted.start - held.start : wanted.stop - held.start]

    def _pointwise(self, index: int) -> Tensor:
        """A deterministic pointwise node works on all the rows its readers see, carried ones included."""
        rule, source = self.nodes[index].rule, self.nodes[index].inputs[0]
        assert isinstance(rule, Pointwise)
        rows = self._take(source, self.plan.held(index, self.strip))
        if source in self.activated:
            return rows
        fresh = len(self.plan.new(source, self.strip)) > 0  # else the buffer is the carry itself
        if self.engine.works_in_place(index) and fresh and rule.in_place is not None:
            return rule.in_place(rows, *self.tensors[index])
        return rule.function(rows, *self.tensors[index])

    def _emit(self, index: int) -> Tensor | None:
        """The new rows of a node that keeps its own carry, or the partial result of a reduction."""
        node, new = self.nodes[index], self.plan.new(index, self.strip)
        if len(new) == 0:
            return None
        if isinstance(node.rule, Convolution | MaxPool | AveragePool):
            return self._window(index)
        taken = [self._take(source, new) for source in node.inputs]
        if isinstance(node.rule, Join):
            return node.rule.function(*taken)
        if isinstance(node.rule, ChannelDropout):
            return node.rule.apply(taken[0], self.seeds.get(index, 0))
        if isinstance(node.rule, Reduction):
            self.result.reduced[index] = (taken[0].shape[3], taken[0].dtype)
            return node.rule.partial(taken[0])
        assert isinstance(node.rule, Pointwise)
        return node.rule.function(taken[0], *self.tensors[index])

    def _window(self, index: int) -> Tensor:
        """Convolution or pooling: the rows it reads, the padding where they reach a border, and the kernel."""
        rule, source, out = self.nodes[index].rule, self.nodes[index].inputs[0], self.plan.new(index, self.strip)
        assert isinstance(rule, Convolution | MaxPool | AveragePool)
        rows_in, held = self.plan.totals[source], self.plan.held(source, self.strip)
        read = rule.window.read(out, rows_in)
        vertical_pad = 0
        if rule.window.mode != "zeros" and (read.top or read.bottom):
            behind = [row - held.start for row in rule.window.padded_rows(out, rows_in)]
            buffer = self.buffers[source]
            assert buffer is not None
            rows = buffer.index_select(2, torch.tensor(behind, device=buffer.device))
        else:
            rows = self._take(source, range(read.start, read.stop))
            if read.top == read.bottom:
                vertical_pad = read.top
            else:
                rows = functional.pad(rows, (0, 0, read.top, read.bottom), value=rule.fill)
        result = rule.apply(rows, vertical_pad, self.tensors[index])
        if isinstance(rule, AveragePool):
            return rule.correct(result, out, rows_in, rows.shape[3])
        return result


@dataclass
class Pass:
    """One image on its way through the engine.

    Attributes:
        engine: The engine.
        plan: The plan for the image's height.
        rows: Returns the image's rows of a strip on the device that computes.
        device: That device.
        surroundings: Global state at the call.
        carries: The carries that entered each strip, if kept for a backward pass.
        states: Accumulators of the reductions after the last strip.
        dtypes: Type of the map in front of each reduction.
        pixels: Pixels of that map.
    """

    engine: Engine
    plan: RowPlan
    rows: Callable[[int], Tensor]
    device: torch.device
    surroundings: Surroundings
    carries: list[Carries] = field(default_factory=list)
    states: dict[int, Tensor] = field(default_factory=dict)
    dtypes: dict[int, torch.dtype] = field(default_factory=dict)
    pixels: dict[int, int] = field(default_factory=dict)

    def forward(self, tensors: NodeTensors, keep_carries: bool) -> list[Tensor]:
        """All strips, without autograd. Returns the values of the boundary nodes."""
        boundary = self.engine.network.boundary
        maps: dict[int, Tensor] = {}
        carries: Carries = {}
        random = self.engine.network.has_random_nodes
        with torch.no_grad(), ExitStack() as stack:
            self.surroundings.enter_autocast(stack)
            for strip in range(self.plan.strips):
                if keep_carries:
                    self.carries.append(carries)
                    if random:
                        self.surroundings.note_random_state(self.device)
                step = self.engine.step(self.plan, strip, self.rows(strip), carries, tensors, self.surroundings.seeds)
                carries = step.carries
                self._collect(step, strip, maps)
        return [maps[index] if index in maps else self._reduced(index) for index in boundary]

    def _collect(self, step: Strip, strip: int, maps: dict[int, Tensor]) -> None:
        """Write emitted rows into the feature maps, and merge partial reductions."""
        for index, rows in step.emitted.items():
            rule = self.engine.nodes[index].rule
            if isinstance(rule, Reduction):
                self.states[index] = rule.merge(self.states.get(index), rows, strip)
                width, self.dtypes[index] = step.reduced[index]
                self.pixels[index] = self.plan.totals[index] * width
                continue
            if index not in maps:
                batch, channels, _, width = rows.shape
                maps[index] = rows.new_empty(batch, channels, self.plan.totals[index], width)
            new = self.plan.new(index, strip)
            maps[index][:, :, new.start : new.stop] = rows

    def _reduced(self, index: int) -> Tensor:
        rule = self.engine.nodes[index].rule
        assert isinstance(rule, Reduction)
        return rule.finish(self.states[index], self.pixels[index], self.dtypes[index])

    def backward(
        self, tensors: NodeTensors, image_needs_grad: bool, grads: Sequence[Tensor], image_grad: Tensor | None
    ) -> None:
        """All strips from last to first, recomputed with autograd.

        Args:
            tensors: The tensors of every node as leaves; gradients are accumulated in their ``.grad``.
            image_needs_grad: Whether to write `image_grad`.
            grads: Gradients of the boundary values.
            image_grad: Gets the gradient of the image.
        """
        needs = self._needs_grad(tensors, image_needs_grad)
        leaves = [t for node in tensors for t in node if t is not None and t.requires_grad]
        carry_grads: Carries = {}
        for strip in reversed(range(self.plan.strips)):
            entered = {i: c.detach().requires_grad_(needs[i]) for i, c in self.carries[strip].items()}
            image_rows = self.rows(strip).detach().requires_grad_(image_needs_grad)
            with torch.enable_grad(), ExitStack() as stack:
                self.surroundings.restore(stack, strip, self.device)
                step = self.engine.step(self.plan, strip, image_rows, entered, tensors, self.surroundings.seeds)
            roots = [(step.carries[index], grad) for index, grad in carry_grads.items()]
            roots += self._boundary_roots(step, strip, grads)
            roots = [(root, grad) for root, grad in roots if root.requires_grad]
            inputs = leaves + [c for c in entered.values() if c.requires_grad] + [image_rows] * image_needs_grad
            if roots:
                torch.autograd.backward([r for r, _ in roots], [g for _, g in roots], inputs=inputs)
            carry_grads = {i: c.grad for i, c in entered.items() if c.grad is not None}
            if image_grad is not None and image_needs_grad:
                new = self.plan.new(0, strip)
                rows_grad = image_rows.grad
                image_grad[:, :, new.start : new.stop] = 0 if rows_grad is None else rows_grad.to(image_grad.device)

    def _boundary_roots(self, step: Strip, strip: int, grads: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What the strip yielded at the boundary, with its gradient."""
        roots = []
        for index, grad in zip(self.engine.network.boundary, grads, strict=True):
            if index not in step.emitted:
                continue
            rule, new = self.engine.nodes[index].rule, self.plan.new(index, strip)
            if isinstance(rule, Reduction):
                part = rule.partial_grad(grad, self.states[index], strip, self.pixels[index])
            else:
                part = grad[:, :, new.start : new.stop]
            roots.append((step.emitted[index], part))
        return roots

    def _needs_grad(self, tensors: NodeTensors, image_needs_grad: bool) -> list[bool]:
        """For every node whether anything trained lies in front of it."""
        needs = [image_needs_grad]
        for node, own in zip(self.engine.nodes[1:], tensors[1:], strict=True):
            trained = any(t is not None and t.requires_grad for t in own)
            needs.append(trained or any(needs[i] for i in node.inputs))
        return needs
