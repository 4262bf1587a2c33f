"""Dispatch modes that see every operation of a step, those of its backward pass too."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten._unique2.default,
}
"""Operations that wait for the device: their result is a number on the host, or its size depends on values."""
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
"""Operations that compute nothing, beside those that return views."""
COPIES = {aten._to_copy.default, aten.copy_.default}


class Watch(TorchDispatchMode):
    """Fails at an operation that a capture refuses; counts the others.

    Attributes:
        seen: number of operations.
        launches: number of those that compute or copy something. On CUDA each starts at least one kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = self.launches = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        self.launches += not (func.is_view or func.overloadpacket.__name__ in ALLOCATIONS)
        masks = func is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        assert func not in READS, f"{func} reads a value back"
        assert not masks, "indexing by a mask reads the number of its elements back"
        return func(*args, **(kwargs or {}))


class OneDevice(Watch):
    """Fails, too, at an operation with tensors of another device, such as a mask that was made on the host.

    Args:
        device: the type of the device to which everything belongs.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        given = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        # torch itself allows numbers in tensors without axes on the host beside tensors of a device.
        strangers = {t.device.type for t in given if t.ndim} - {self.device}
        assert not strangers, f"{func} meets tensors of {', '.join(sorted(strangers))}"
        assert func not in COPIES or {t.device.type for t in given} == {self.device}, f"{func} copies from the host"
        return result
