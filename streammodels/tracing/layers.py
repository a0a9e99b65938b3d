"""Checks for layers that cannot be recorded at all, because of hooks, wrappers or missing weights."""

from __future__ import annotations

from typing import Any

from torch import jit, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import prune

from streammodels.errors import UnsupportedLayerError
from streammodels.tracing.recording.forwards import is_intercepted

_Why = tuple[str, str]
"""Reason and remedy."""

_WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def check_layers(module: nn.Module) -> None:
    """Check that a module consists of plain layers that strips can call as the module does.

    Raises:
        UnsupportedLayerError: Naming the layer that is not.
    """
    if torch_module._global_backward_hooks or torch_module._global_backward_pre_hooks:
        reason = "a backward hook is registered for all modules, which would be called for no strip"
        raise UnsupportedLayerError(type(module).__name__, reason, "Remove it; its handle has remove().")
    for name, layer in module.named_modules():
        why = _wrapped(layer) or _not_plain(layer) or _hooked(layer)
        if why is not None:
            raise UnsupportedLayerError(name or type(layer).__name__, *why)


def _wrapped(layer: Any) -> _Why | None:
    """For modules that call another one."""
    kind = type(layer).__name__
    if getattr(layer, "is_streamed", False):
        return "it is streamed already", "Stream the whole network at once; the original is its attribute 'module'."
    if kind == "OptimizedModule" or layer._compiled_call_impl is not None:
        remedy = "Stream the plain module, which torch.compile(module) has as '_orig_mod', and leave out .compile()."
        return "it is compiled, for whole images", remedy
    if kind in _WRAPPERS and type(layer).__module__.startswith("torch"):
        remedy = "Stream the module inside it ('.module'), and put the wrapper around the streamed one."
        return f"{kind} calls the module inside it in its own way", remedy
    return None


def _not_plain(layer: Any) -> _Why | None:
    """For modules whose forward is not to be seen, and those without weights."""
    if isinstance(layer, jit.ScriptModule):
        return "it is scripted, so that its forward cannot be seen", "Stream the module it was scripted from."
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():  # type: ignore[misc]
        return "it is lazy and has no weights yet", "Call the module on a small image once, then stream it."
    if "forward" in vars(layer) and not is_intercepted(layer):
        return "its forward was replaced on the object, behind its class", "Write a subclass with that forward."
    return None


def _hooked(layer: nn.Module) -> _Why | None:
    """For hooks, which are called once for an image, and would be called for no strip."""
    hooks = [*layer._forward_hooks.values(), *layer._forward_pre_hooks.values()]
    hooks += [*layer._backward_hooks.values(), *layer._backward_pre_hooks.values()]
    kinds = {type(hook).__name__ for hook in hooks}
    if any(isinstance(hook, prune.BasePruningMethod) for hook in hooks):
        remedy = "Make it permanent: torch.nn.utils.prune.remove(layer, 'weight')."
        return "it is pruned by a hook that computes its weight, which would be called for no strip", remedy
    for old in ("weight_norm", "spectral_norm"):
        if old.replace("_", "") in {kind.lower() for kind in kinds}:
            remedy = f"Use torch.nn.utils.parametrizations.{old}, which needs none."
            return f"its {old} is a hook that computes its weight, which would be called for no strip", remedy
    return ("it has a hook, which would be called for no strip", "Remove the hook.") if hooks else None


def is_summarized(module: nn.Module) -> bool:
    """Whether Lightning's model summary has hooks on the layers, which only look at shapes."""
    hooks = (hook for layer in module.modules() for hook in layer._forward_hooks.values())
    return any(getattr(hook, "__qualname__", "").startswith("LayerSummary._register_hook") for hook in hooks)
