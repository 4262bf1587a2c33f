"""A GPU that does not exist, with right numbers: what a build of torch for CPUs can show of code for CUDA.

Tensors "on the GPU" are those of the device ``meta``, which have shapes, strides, views and gradients but no numbers.
The numbers lie in CPU memory beside them: each operation also runs there. What CUDA refuses is refused:

- an operation on tensors of both devices (numbers without axes and indices excepted), or with a generator of the CPU;
- ``numpy()`` of a tensor on the GPU;
- while a graph is captured, or where waiting is an error: values read back, and copies between host and GPU;
- for deterministic algorithms: an operation that has none.

A captured graph is a list of operations. As on CUDA, capturing computes nothing, and a replay computes with whatever
is at the same addresses by then. Only float32 is possible: torch's autocast does not know the tensors.

A build for CPUs and one for CUDA behave alike here, with and without a driver: what would ask a real GPU is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dispatch_watch import READS
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from benchbd.engine import global_state
from benchbd.engine.network import SafeStridedConv1x1

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
META, HOST = torch.device("meta"), torch.device("cpu")
NAME = "pretended GPU"
MEMORY = 8 << 30
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
"""Operations that take indices of the host beside tensors of a GPU, and copy them."""
NOT_DETERMINISTIC = {
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "avg_pool3d_backward", "put_", "put"),
    *("adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "max_unpool2d", "nll_loss2d_forward"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
    *("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "_ctc_loss_backward", "histc"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward", "kthvalue"),
    *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "embedding_bag_max_backward"),
}
"""Operations that torch refuses on CUDA in deterministic mode; three more depend on their arguments (``_refuse``)."""
NEW_FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray)
_getters = {
    torch.Tensor.device.__get__: lambda found, tensor: GPU if found.type == "meta" else found,
    torch.Tensor.is_cuda.__get__: lambda found, tensor: on_gpu(tensor),
    torch.Tensor.is_meta.__get__: lambda found, tensor: False,
}


class Mixed(AssertionError):
    """Something that works on a CPU and not on a GPU."""


def on_gpu(thing: Any) -> bool:
    return isinstance(thing, torch.Tensor) and thing.device.type == "meta"


def on_host(thing: Any) -> bool:
    return isinstance(thing, torch.Tensor) and thing.device.type == "cpu"


def meta_for_cuda(thing: Any) -> Any:
    if isinstance(thing, torch.device) and thing.type == "cuda":
        return META
    return META if isinstance(thing, str) and thing.partition(":")[0] == "cuda" else thing


def leaves_of(thing: Any) -> list[Any]:
    """``tree_leaves`` of torch, in a third of the time for what operations take and give."""
    kind = type(thing)
    if kind is tuple or kind is list:
        return [leaf for one in thing for leaf in leaves_of(one)]
    if kind is dict:
        return [leaf for one in thing.values() for leaf in leaves_of(one)]
    return tree_leaves(thing) if isinstance(thing, (tuple, list, dict)) else [thing]


def mapped(change: Callable[[Any], Any], thing: Any) -> Any:
    """``tree_map`` of torch, in a third of the time for what operations take and give."""
    kind = type(thing)
    if kind is tuple or kind is list:
        return kind([mapped(change, one) for one in thing])
    if kind is dict:
        return {name: mapped(change, one) for name, one in thing.items()}
    return tree_map(change, thing) if isinstance(thing, (tuple, list, dict)) else change(thing)


@functools.cache
def divides(func: Any) -> bool:
    """Whether torch divides an operation into its basic ones."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


class _Names(TorchFunctionMode):
    """Lets code say ``cuda`` and see ``cuda:0`` where the tensors are on ``meta``."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        kwargs = {name: meta_for_cuda(value) for name, value in (kwargs or {}).items()}
        args = tuple(meta_for_cuda(value) for value in args)
        if func in _getters:
            return _getters[func](func(*args), args[0])
        if func is torch.Tensor.cuda:
            return args[0].to(META)
        if func is torch.Tensor.pin_memory:
            return args[0].clone()
        if func in NEW_FROM_PYTHON and kwargs.get("device") == META:  # torch would leave out the numbers
            given = kwargs.pop("device")
            return func(*args, **kwargs).to(given)
        if func is torch.Tensor.new_tensor:
            return torch.tensor(args[1], dtype=kwargs.get("dtype") or args[0].dtype).to(args[0].device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and on_gpu(args[0]):
            args = (args[0], _tensors(args[1]), *args[2:])
        return func(*args, **kwargs)


def _tensors(index: Any) -> Any:
    """An index with its lists and arrays as tensors of the host."""
    if isinstance(index, tuple):
        return tuple(map(_tensors, index))
    return torch.as_tensor(index) if isinstance(index, list) or hasattr(index, "__array_interface__") else index


@dataclasses.dataclass
class Recorded:
    """An operation of a graph: what computes it, and the tensors of the host that take its results."""

    compute: Callable[[], Any]
    results: list[torch.Tensor | None]


class _Numbers(TorchDispatchMode):
    """Computes each operation of the pretended GPU in CPU memory.

    Attributes:
        counts: how often values were read back, copied, or indices of the host were used, by operation.
        capture: the operations of the graph that is being captured, or None.
        waiting_fails: whether waiting for the GPU is an error, as in torch's mode that finds synchronisations.
        tf32_fails: whether a convolution is an error where torch allows TF32 for it, as it does by default.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.capture: list[Recorded] | None = None
        self.waiting_fails = self.tf32_fails = False
        self._memory: dict[int, tuple[StorageWeakRef, torch.UntypedStorage]] = {}
        self._prune_at = 2000

    # Memory of the GPU: for each storage without numbers, one of the CPU.

    def host_view(self, thing: Any) -> Any:
        """A tensor of the GPU as a tensor of the CPU that shares its numbers; other things unchanged."""
        if isinstance(thing, torch.device) and thing.type == "meta":
            return HOST
        if not on_gpu(thing):
            return thing
        found = self._memory.get(thing.untyped_storage()._cdata)
        if found is None or found[0].expired():
            raise AssertionError(f"a tensor {tuple(thing.shape)} of the GPU was made where nobody looked")
        view = torch.empty(0, dtype=thing.dtype)
        return view.set_(found[1], thing.storage_offset(), thing.shape, thing.stride())

    def bind(self, thing: torch.Tensor) -> torch.Tensor:
        """A new tensor of the GPU with the numbers of one of the CPU."""
        if thing.storage_offset() or self.capture is not None:
            thing = torch.empty_strided(thing.shape, thing.stride(), dtype=thing.dtype).copy_(thing)
        made = torch.empty_strided(thing.shape, thing.stride(), dtype=thing.dtype, device=META)
        if len(self._memory) > self._prune_at:
            self._memory = {key: pair for key, pair in self._memory.items() if not pair[0].expired()}
            self._prune_at = 2 * len(self._memory) + 2000
        storage = made.untyped_storage()
        self._memory[storage._cdata] = StorageWeakRef(storage), thing.untyped_storage()
        return made

    def snapshot(self) -> Callable[[], None]:
        """Remember all numbers of the GPU; the returned function puts them back."""
        kept = [(memory, memory.clone()) for reference, memory in self._memory.values() if not reference.expired()]

        def put_back() -> None:
            for memory, before in kept:
                memory.copy_(before)

        return put_back

    # Operations.

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = leaves_of((args, kwargs))
        gpu = [thing for thing in leaves if on_gpu(thing)]
        makes = kwargs.get("device") is not None and kwargs["device"].type == "meta"
        if not gpu and not makes:
            return func(*args, **kwargs)
        if divides(func):
            # In inference mode, operations arrive here that torch has yet to divide into its basic ones.
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        name = func.overloadpacket.__name__
        self._refuse(func, name, leaves)
        if func.is_view or torch.Tag.inplace_view in func.tags or name == "set_":
            return func(*args, **kwargs)
        views = mapped(self.host_view, (args, kwargs))
        if func in COPIES:
            return self._copy(func, name, args, kwargs, views)
        found = func(*views[0], **views[1])
        if func._schema.is_mutable:
            self._record(func, views, [])
            return self._same(args, kwargs, views, found)
        taken = {thing.untyped_storage()._cdata for thing in leaves_of(views) if isinstance(thing, torch.Tensor)}
        if any(t.untyped_storage()._cdata in taken for t in leaves_of(found) if isinstance(t, torch.Tensor)):
            return func(*args, **kwargs)  # a view that is not called one
        if func in READS and not isinstance(found, (torch.Tensor, tuple)):
            return found
        made = mapped(lambda thing: self.bind(thing) if isinstance(thing, torch.Tensor) else thing, found)
        self._record(func, views, leaves_of(made))
        return made

    def _refuse(self, func: Any, name: str, leaves: list[Any]) -> None:
        """Raise for what CUDA refuses; count what makes the host wait."""
        if any(isinstance(thing, torch.Generator) for thing in leaves):
            raise Mixed(f"{func}: a generator of the CPU draws for the GPU")
        strangers = [t for t in leaves if on_host(t) and (t.ndim or torch.Tag.pointwise not in func.tags)]
        indexes = name in INDEXING
        if strangers and func not in COPIES and not name.startswith("_foreach") and not indexes:
            shapes = ", ".join(str(tuple(thing.shape)) for thing in strangers)
            raise Mixed(f"{func}: tensors of the host {shapes} beside those of the GPU")
        masks = indexes and any(isinstance(t, torch.Tensor) and t.dtype == torch.bool for t in leaves[1:])
        if func in READS or masks or (strangers and indexes):
            self._wait(f"{name} reads")
        if self.tf32_fails and name.startswith("convolution") and torch.backends.cudnn.allow_tf32:
            raise Mixed(f"{func}: float32 may mean TF32 here; compute within engine.precision.arithmetic")
        if torch.are_deterministic_algorithms_enabled():
            sums = name == "cumsum" and leaves[0].is_floating_point()
            medians = name in ("median", "nanmedian") and func._overloadname != "default"
            weights = name == "bincount" and sum(isinstance(t, torch.Tensor) for t in leaves) > 1
            if name in NOT_DETERMINISTIC or sums or medians or weights:
                raise RuntimeError(f"{name} does not have a deterministic implementation")

    def _wait(self, what: str) -> None:
        """Count that the host waits for the GPU. Raises where it must not."""
        self.counts[what] += 1
        if self.capture is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        if self.waiting_fails:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")

    def _copy(self, func: Any, name: str, args: Any, kwargs: Any, views: Any) -> Any:
        target = kwargs.get("device") or args[0].device
        source = (args[1] if name == "copy_" else args[0]).device
        if target.type != source.type:
            self._wait("copies to the host" if target.type == "cpu" else "copies to the GPU")
        found = func(*views[0], **views[1])
        if name == "copy_":
            self._record(func, views, [])
            return args[0]
        if target.type == "cpu":
            return found
        made = self.bind(found)
        self._record(func, views, [made])
        return made

    def _record(self, func: Any, views: Any, made: list[Any]) -> None:
        if self.capture is not None:
            results = [self.host_view(thing) if on_gpu(thing) else None for thing in made]
            self.capture.append(Recorded(lambda: func(*views[0], **views[1]), results))

    def _same(self, args: Any, kwargs: Any, views: Any, found: Any) -> Any:
        """Results of an operation in place: the tensors that it was given."""
        given = list(zip(leaves_of(views), leaves_of((args, kwargs)), strict=True))

        def original(thing: Any) -> Any:
            if not isinstance(thing, torch.Tensor):
                return thing
            same = next((own for view, own in given if view is thing), None)
            return self.bind(thing) if same is None else same

        return mapped(original, found)


class PretendedGraph:
    """In place of ``torch.cuda.CUDAGraph``."""

    def __init__(self, numbers: _Numbers) -> None:
        self._numbers, self._operations, self.replays = numbers, [], 0

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        put_back, self._numbers.capture = self._numbers.snapshot(), []
        try:
            yield
            self._operations = self._numbers.capture
        finally:
            self._numbers.capture = None
            put_back()

    def replay(self) -> None:
        self.replays += 1
        modes = torch.utils._python_dispatch._disable_current_modes
        with modes(), torch.no_grad():
            for operation in self._operations:
                found = leaves_of(operation.compute())
                for place, value in zip(operation.results, found, strict=False):
                    if place is not None:
                        place.copy_(value)


@dataclasses.dataclass
class PretendedGpu:
    """What a test sees of the GPU.

    Attributes:
        numbers: counts what was read back and copied.
        graphs: the graphs that were captured.
    """

    numbers: _Numbers
    graphs: list[PretendedGraph]


def _safe_forward(layer: SafeStridedConv1x1, x: torch.Tensor) -> torch.Tensor:
    down, right = layer.stride
    return functional.conv2d(x[..., ::down, ::right], layer.weight, layer.bias, groups=layer.groups)


def _refusal(name: str) -> Callable[..., Any]:
    """In place of a function that a build for CPUs answers with None, and one for CUDA by asking the driver."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"torch._C.{name} would ask the driver; give what calls it a stand-in here")

    return refuse


@contextlib.contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedGpu]:
    """A context in which torch sees a GPU."""
    numbers, graphs = _Numbers(), []

    def make_graph() -> PretendedGraph:
        graphs.append(PretendedGraph(numbers))
        return graphs[-1]

    class Stream:
        def __init__(self, device: Any = None) -> None:
            self.device = device

        def wait_stream(self, other: Any) -> None:
            pass

        def synchronize(self) -> None:
            pass

        def is_capturing(self) -> bool:
            return numbers.capture is not None

    current = Stream()
    stands = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: (7, 5),  # no bf16
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "reset_peak_memory_stats": lambda device=None: None,
        "max_memory_allocated": lambda device=None: 1 << 21,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "default_generators": (SimpleNamespace(manual_seed=torch.default_generator.manual_seed),),
        "Stream": Stream,
        "current_stream": lambda device=None: current,
        "set_stream": lambda stream: None,
        "stream": lambda stream: contextlib.nullcontext(),
        "device": lambda device: contextlib.nullcontext(),
        "CUDAGraph": make_graph,
        "graph": lambda graph, **options: graph.capturing(),
        "is_current_stream_capturing": lambda: numbers.capture is not None,
        "set_sync_debug_mode": lambda mode: setattr(numbers, "waiting_fails", mode == "error"),
    }
    for name, stand in stands.items():
        monkeypatch.setattr(torch.cuda, name, stand, raising=False)
    accelerator = {
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "set_device_index": lambda device: None,
        "device_index": lambda device: contextlib.nullcontext(),
        "current_device_index": stands["current_device"],
        **{name: stands[name] for name in ("is_available", "device_count", "current_stream", "set_stream")},
        **{name: stands[name] for name in ("synchronize", "empty_cache")},
    }
    if hasattr(torch, "accelerator"):  # torch 2.6
        for name, stand in accelerator.items():
            monkeypatch.setattr(torch.accelerator, name, stand, raising=False)
    for name in (name for name in dir(torch._C) if name.startswith("_accelerator_")):
        monkeypatch.setattr(torch._C, name, _refusal(name))
    # The numbers are computed on a CPU, whose kernel for these convolutions may crash.
    monkeypatch.setattr(SafeStridedConv1x1, "forward", _safe_forward)
    # These modes are torch's, and no plugin has entered them.
    monkeypatch.setattr(global_state, "check", lambda: None)
    with _Names(), numbers:
        yield PretendedGpu(numbers, graphs)
