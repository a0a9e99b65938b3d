"""Exactness of published networks, family by family: streamed outputs and gradients against plain autograd in float64.

The networks are those of ``zoo.txt``, with random weights in evaluation mode. Whatever a library initializes to a
constant (scales, shifts, layer scale, running statistics) gets random values, so that no branch is silent. Each network
computes a batch of two on two odd sizes, one tall and one wide, is cut in three ways (thin and middling strips, and a
memory budget), and computes a list of lazy images. Its results, the gradients of all its parameters and that of the
image are compared by relative L2 distance.

A mismatch is a distance above 1e-11, and above ten times what the plain network itself differs by when its image and
weights change in their last bit.

    python tests/benchmarks/zoo.py                              # all of them, in about half an hour on one core
    python tests/benchmarks/zoo.py --only resnet10t FPN         # those whose name contains one of the words
    python tests/benchmarks/zoo.py --again refused mismatch     # those that had such a result
    python tests/benchmarks/zoo.py --table                      # the table of docs/networks.md, from what was written

Networks of segmentation_models_pytorch are left out where it is not installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import inspect
import json
import math
import re
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torchvision.models.feature_extraction import create_feature_extractor

from streammodels import StreamedModule, UnsupportedLayerError, stream

HERE = Path(__file__).resolve().parent
LIST = HERE / "zoo.txt"
RECORDS = HERE.parents[1] / "build/benchmarks/zoo.jsonl"
TABLE = HERE.parents[1] / "docs/networks.md"
TOLERANCE = 1e-11
CLASSES = 5
CHECKS = ALL, QUICK, TAKE = "all", "quick", "take"
EXACT, GLOBAL, TAKEN = "exact", "exact with global statistics", "taken, not compared"
SIZES = (((97, 71), (67, 101)), ((161, 139), (131, 165)), ((224, 224), (224, 224)))  # the first that a network takes
MULTIPLES = (((96, 64), (64, 128)),)  # decoders that take multiples of 32 only


class OutOfTimeError(Exception):
    """A network took longer than it may."""


# -- networks ----------------------------------------------------------------------------------------------------------


def read_list(path: Path = LIST) -> dict[str, str]:
    """The section of every network, by its name, in the order of the list."""
    section, found = "", dict[str, str]()
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            found[line] = section
    return found


def build(name: str) -> nn.Module:
    """The network of a name of the list, in double precision, in evaluation mode, with every branch counting."""
    torch.manual_seed(0)
    library, _, rest = name.partition("/")
    model, _, variant = rest.partition(":")
    make: dict[str, Callable[[str, str], nn.Module]] = {"timm": _timm, "torchvision": _torchvision, "smp": _smp}
    network = make[library](model, variant)
    return strengthen(network.eval()).double()


def _timm(model: str, variant: str) -> nn.Module:
    import timm

    if variant == "features_only":
        return timm.create_model(model, pretrained=False, features_only=True)
    try:  # of the attention networks, which have a fixed size otherwise
        return timm.create_model(model, pretrained=False, num_classes=CLASSES)
    except Exception:
        return timm.create_model(model, pretrained=False)


def _torchvision(model: str, variant: str) -> nn.Module:
    options: dict[str, Any] = {"num_classes": CLASSES}
    if model in ("googlenet", "inception_v3"):
        options |= {"aux_logits": variant == "auxiliary", "init_weights": False}
    if model.startswith(("fcn", "deeplab", "lraspp")):
        options |= {"weights_backbone": None} | ({} if model.startswith("lraspp") else {"aux_loss": True})
    network: nn.Module = torchvision.models.get_model(model, weights=None, **options)
    if variant == "pyramid":
        stages = {f"layer{i}": f"c{i}" for i in range(1, 5)}
        return create_feature_extractor(network, stages)
    return network


def _smp(model: str, variant: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    options: dict[str, Any] = {"decoder_interpolation": variant} if variant else {}
    network: nn.Module = getattr(smp, model)("resnet18", encoder_weights=None, classes=2, **options)
    return network


def strengthen(network: nn.Module) -> nn.Module:
    """Give random values to whatever is initialized to a constant; returns the network."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            last = name.rpartition(".")[2]
            if last == "running_mean":
                value.normal_(std=0.3, generator=generator)
            elif last == "running_var":
                value.uniform_(0.5, 2.0, generator=generator)
            elif isinstance(value, nn.Parameter) and value.numel() and bool((value == value.flatten()[0]).all()):
                if re.search(r"bias|beta|shift", last):
                    value.normal_(std=0.2, generator=generator)
                else:
                    value.uniform_(0.5, 1.5, generator=generator)
    return network


class Lazy:
    """An image whose rows are read on request, in double precision."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.shape, self.dtype = image, tuple(image.shape), image.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows of the image."""
        return self.image[:, start:stop].clone()


# -- comparison --------------------------------------------------------------------------------------------------------

Values = dict[str, Tensor | None]


def compute(call: Callable[[Any], Any], network: nn.Module, image: Any) -> Values:
    """Outputs, the gradients of the parameters and that of the image, if it is a tensor, under random weights."""
    network.zero_grad(set_to_none=True)
    entered = image.clone().requires_grad_() if isinstance(image, Tensor) else image
    outputs = [one for one in pytree.tree_leaves(call(entered)) if isinstance(one, Tensor)]
    generator = torch.Generator().manual_seed(7)
    loss = sum((one * torch.randn(one.shape, dtype=one.dtype, generator=generator)).sum() for one in outputs)
    assert isinstance(loss, Tensor)
    loss.backward()
    values: Values = {f"output {index}": one.detach() for index, one in enumerate(outputs)}
    values |= {name: parameter.grad for name, parameter in network.named_parameters()}
    return values | ({"image": entered.grad} if isinstance(image, Tensor) else {})


def farthest(actual: Values, expected: Values) -> tuple[float, str]:
    """The largest relative distance, and of what.

    A gradient that is zero up to rounding, as that of a bias before a normalization, counts relative to the largest.
    """
    grads = [float(one.norm()) for name, one in expected.items() if one is not None and "output" not in name]
    scale = 1e-6 * max(grads, default=0.0)
    return max(
        (distance(actual.get(name), one, 0.0 if "output" in name else scale), name) for name, one in expected.items()
    )


def distance(actual: Tensor | None, expected: Tensor | None, scale: float) -> float:
    """Relative L2 distance; infinite if the shapes differ. A gradient that is zero may be missing, and the reverse."""
    if actual is None or expected is None:
        other = expected if actual is None else actual
        return 0.0 if other is None or not other.any() else math.inf
    if actual.shape != expected.shape:
        return math.inf
    size = max(float(expected.norm()), scale)
    far = float((actual - expected).norm())
    return far if not size else far / size if math.isfinite(far) else math.inf


def last_bits(network: nn.Module, image: Tensor, plain: Values) -> float:
    """Change of the plain results when every number of image and weights changes by up to its last bit."""
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for value in (*moved.parameters(), image := image.clone()):
            value.mul_(1 + torch.finfo(value.dtype).eps * (2 * torch.rand_like(value) - 1))
    return farthest(compute(moved, moved, image), plain)[0]


# -- one network -------------------------------------------------------------------------------------------------------


def images_for(network: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """A tall and a wide batch of the smallest sizes that the plain network computes, in evaluation mode."""
    error: Exception | None = None
    tried = SIZES + MULTIPLES if name.startswith("smp/") else SIZES
    for pair in tried:
        tall, wide = (torch.randn(2, 3, *size, dtype=torch.float64) for size in pair)
        try:
            with torch.no_grad():
                network(tall)
                network(wide)
        except Exception as caught:
            error = caught
        else:
            return tall, wide
    raise RuntimeError(f"the plain network computes no image: {error}")


def cuts(network: nn.Module, image: Tensor, options: dict[str, Any]) -> Iterator[tuple[str, StreamedModule]]:
    """The network cut in three ways; strips are so thin that a side of the image gives several."""
    side = max(image.shape[2:])
    for rows in (5, side // 3 + 2):
        yield f"strip_rows={rows}", stream(network, strip_rows=rows, **options)
    if options:  # statistics of whole maps: nothing is forecast
        yield f"tile_size={side // 2}", stream(network, tile_size=side // 2, **options)
    else:
        middling = stream(network, strip_rows=side // 2)
        budget = middling.forecast(*image.shape[2:], batch=2).memory_bytes
        yield f"memory={budget}", stream(network, memory=budget)


def compare(network: nn.Module, name: str, options: dict[str, Any], check: str = ALL) -> dict[str, Any]:
    """The largest distance of a network; raises `UnsupportedLayerError` if it cannot be streamed."""
    stream(network, strip_rows=8, **options)  # refuses before anything is computed
    tall, wide = images_for(network, name)
    record: dict[str, Any] = {"size": list(tall.shape[2:])}
    if check == TAKE:
        with torch.no_grad():
            stream(network, strip_rows=41, **options)(tall)
        return record | {"result": TAKEN}
    plain = compute(network, network, tall)
    record["silent"] = sorted(key for key, value in plain.items() if value is None or not value.any())
    found: list[tuple[float, str, str]] = []
    chosen = cuts(network, tall, options)
    if check == QUICK:
        chosen = iter([("strip_rows=41", stream(network, strip_rows=41, **options))])
    for cut, streamed in chosen:
        streamed.kernel_pixels = 1 if cut.startswith("strip") else streamed.kernel_pixels
        found.append((*farthest(compute(streamed, network, tall), plain), cut))
    own = last_bits(network, tall, plain) if max(found)[0] > TOLERANCE else 0.0
    if check == ALL:
        streamed = stream(network, strip_rows=13, **options)
        streamed.kernel_pixels = 1
        other = compute(network, network, wide)
        found.append((*farthest(compute(streamed, network, wide), other), "wide, strip_rows=13"))
        lazy = compute(streamed, network, [Lazy(one) for one in tall])
        found.append((*farthest(lazy, without_image(plain)), "lazy"))
    far, what, cut = max(found)
    record |= {"far": far, "what": what, "cut": cut, "own": own}
    record["check"] = check
    return record | {"result": EXACT if far <= max(TOLERANCE, 10 * own) else "mismatch"}


def without_image(values: Values) -> Values:
    """The values but the gradient of the image, which lazy images do not get."""
    return {name: value for name, value in values.items() if name != "image"}


def judge(name: str, seconds: float, check: str = ALL) -> dict[str, Any]:
    """The record of one network."""
    start = time.process_time()
    record: dict[str, Any] = {"name": name}
    try:
        with limited(seconds):
            network = build(name)
            record["parameters"] = sum(one.numel() for one in network.parameters())
            try:
                record |= compare(network, name, {}, check)
            except UnsupportedLayerError as error:
                record |= {"result": "refused", "layer": error.layer, "reason": error.reason, "remedy": error.remedy}
                if "global_statistics" in inspect.signature(stream).parameters and "global_statistics" in error.remedy:
                    try:
                        record |= compare(network, name, {"global_statistics": "host"}, check)
                        record["result"] = record["result"].replace(EXACT, GLOBAL)
                    except UnsupportedLayerError as second:
                        record |= {"layer": second.layer, "reason": second.reason, "remedy": second.remedy}
    except OutOfTimeError:
        record |= {"result": "out of time"}
    except Exception as error:
        record |= {
            "result": "error",
            "reason": f"{type(error).__name__}: {error}",
            "trace": traceback.format_exc()[-1500:],
        }
    return record | {"seconds": round(time.process_time() - start, 1)}


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` in the main thread after so many seconds."""

    def ring(*_: Any) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- records and table -------------------------------------------------------------------------------------------------


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """The last record of every network."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {record["name"]: record for record in map(json.loads, lines)}


START, END = "<!-- zoo: begin -->", "<!-- zoo: end -->"


def write_table(records: dict[str, dict[str, Any]], sections: dict[str, str]) -> None:
    """Replace the part of `TABLE` between the marks."""
    before, rest = TABLE.read_text().split(START)
    TABLE.write_text(f"{before}{START}\n{table(records, sections)}{END}{rest.split(END)[1]}")


def table(records: dict[str, dict[str, Any]], sections: dict[str, str]) -> str:
    """The records as Markdown, with the counts in the first sentence."""
    computed = {sections[name] for name in records if name in sections}
    sections = {name: section for name, section in sections.items() if section in computed}
    results = {name: records.get(name, {}).get("result", "not computed") for name in sections}
    lines = []
    for section in dict.fromkeys(sections.values()):
        names = [name for name in sections if sections[name] == section]
        counts = Counter(results[name] for name in names)
        exact, waiting, taken = (counts[one] for one in (EXACT, GLOBAL, TAKEN))
        refused = len(names) - exact - waiting - taken
        lines.append(f"| {section} | {len(names)} | {exact} | {waiting} | {taken} | {refused} |")
    families = [name for name, section in sections.items() if section == "convolutional"]
    exact, waiting, taken = (sum(results[name] == one for name in families) for one in (EXACT, GLOBAL, TAKEN))
    worst = max((records[name]["far"] for name in sections if results[name] in (EXACT, GLOBAL)), default=0.0)
    streaming, host = exact + waiting + taken, 'global_statistics="host"'
    text = (
        f"Of {len(families)} convolutional families, {streaming} ({streaming / len(families):.1%}) stream: {exact} "
        f"were compared as they are, {waiting} with `{host}`, and {taken} are taken, but not compared yet. The largest "
        f"relative difference of outputs and gradients from plain autograd, in double precision, is {worst:.0e}.\n\n"
        "| section | networks | exact | exact with global statistics | taken, not compared | refused |\n"
        "|---|---|---|---|---|---|\n"
    )
    text += "\n".join(lines) + "\n"
    for result in (EXACT, GLOBAL, TAKEN):
        listed = [name for name in sections if results[name] == result]
        text += f"\n**{result[0].upper()}{result[1:]}**: {', '.join(f'`{name}`' for name in listed)}.\n"
    quick = sum(results[name] in (EXACT, GLOBAL) and records[name].get("check") == QUICK for name in sections)
    if quick:
        text += f"\n{quick} of the comparisons are of one size cut in one way; the others are of all.\n"
    text += "\n| not exact, or refused | layer | because |\n|---|---|---|\n"
    for name in sections:
        if results[name] not in (EXACT, GLOBAL, TAKEN):
            record = records.get(name, {})
            reason, layer = str(record.get("reason", results[name])), record.get("layer", "")
            if results[name] == "mismatch":
                layer = record["what"]
                reason = f"differs by {record['far']:.0e}, the plain network under its last bits by {record['own']:.0e}"
            elif results[name] != "refused":
                reason = results[name]
            reason = reason.replace("|", "\\|").replace("\n", " ")
            text += f"| `{name}` | `{layer}` | {reason[:200]} |\n"
    return text


def main() -> int:
    """Read the arguments, compute, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="words, of which a name has to contain one")
    parser.add_argument("--resume", action="store_true", help="skip what has a record")
    parser.add_argument(
        "--check", choices=CHECKS, default=ALL, help="quick: one size cut in one way; take: one forward"
    )
    parser.add_argument("--again", nargs="+", default=[], help="only what had one of these results")
    parser.add_argument("--seconds", type=float, default=240.0, help="limit for each network")
    parser.add_argument("--records", type=Path, default=RECORDS, help="JSON lines, written as networks are computed")
    parser.add_argument("--table", action="store_true", help="write the table from the records")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known, sections = read_records(options.records), read_list()
    if options.table:
        write_table(known, sections)
        return 0
    options.records.parent.mkdir(parents=True, exist_ok=True)
    has_smp = importlib.util.find_spec("segmentation_models_pytorch") is not None
    for name in sections:
        if options.only and not any(word in name for word in options.only):
            continue
        if options.again and not any(known.get(name, {}).get("result", "").startswith(one) for one in options.again):
            continue
        if options.resume and name in known and options.check in (QUICK, TAKE, known[name].get("check", ALL)):
            continue
        if name.startswith("smp/") and not has_smp:
            print(f"{name}: left out, segmentation_models_pytorch is not installed", flush=True)
            continue
        record = known[name] = judge(name, options.seconds, options.check)
        with options.records.open("a") as file:
            file.write(json.dumps(record) + "\n")
        told = f"{record['far']:.1e} {record['what']}, {record['cut']}" if "far" in record else record.get("reason", "")
        print(
            f"{record['seconds']:6.1f} s  {record['result']:9} {name}: {record.get('layer', '')} {told[:150]}",
            flush=True,
        )
    counts = Counter(known[name]["result"] for name in sections if name in known)
    print(", ".join(f"{count} {result}" for result, count in counts.most_common()))
    return 1 if counts["mismatch"] or counts["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
