"""Which parts of code and objects go into a cache key: a function's source, a loss's fields, a plugin's files."""

from __future__ import annotations

import dataclasses
import inspect
import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchbd.core.hashing import sha_of
from benchbd.errors import UsageError, shown
from benchbd.plugins import registry
from benchbd.plugins.contract import Component
from benchbd.plugins.source_digest import code_digest
from benchbd.plugins.trained import TrainedModel

if TYPE_CHECKING:
    from benchbd.engine import Precision

CODE_VERSION = 2
"""Part of every stage's key: raise it when the engine or the lab computes something else than before."""


USUAL_CLASSES = {"cpu-fp32": "cpu", "cuda-bf16": "cuda"}
"""Precision classes that the keys of plugins' own stages name by their device alone."""


def pass_device(device: torch.device, threads: int) -> str:
    """The device in the key of a pass, which computes in fp32 whatever the precision of trainings: cpu, cpu-t4, cuda.

    Args:
        device: computes the pass.
        threads: CPU threads of the cell.
    """
    return f"{device.type}-t{threads}" if device.type == "cpu" and threads > 1 else device.type


def stage_device(precision: Precision, threads: int) -> str:
    """The device in the key of a plugin's own stage, which may depend on trainings and on the threads of a CPU.

    Args:
        precision: the class in which the cell trains.
        threads: CPU threads of the cell. On a GPU too they compute what a plugin does in numpy.
    """
    suffix = f"-t{threads}" if threads > 1 and not precision.name.endswith(f"-t{threads}") else ""
    return USUAL_CLASSES.get(precision.name, precision.name) + suffix


def code_of(thing: Any) -> str:
    """A digest of the code of a class (its bases in plugin code included) or function; '' where there is no source.

    Comments, docstrings, annotations and formatting do not count.
    """
    bases = thing.__mro__ if isinstance(thing, type) else (thing,)
    sources = []
    for base in bases:
        if getattr(base, "__module__", "").partition(".")[0] not in ("builtins", "typing", "abc", "torch"):
            try:
                source = inspect.getsource(base)
            except (OSError, TypeError):  # typed into a prompt
                continue
            sources.append(textwrap.dedent(source).encode("utf-8", "surrogatepass"))
    return code_digest(sources) if sources else ""


def cache_key_form(thing: Any, what: str) -> Any:
    """The form in which a loss or a perturbation goes into a key: its class, the class's source, its fields.

    Raises:
        UsageError: it is not a frozen dataclass of numbers, text, arrays and trained models. Other objects have no
            reliable form: the repr of a function is an address in memory, that of a large array is cut short.
    """
    if isinstance(thing, float) and not math.isfinite(thing):
        return repr(thing)
    if thing is None or isinstance(thing, (str, int, float)):
        return thing
    if isinstance(thing, (list, tuple)):
        return [cache_key_form(item, what) for item in thing]
    if isinstance(thing, (np.ndarray, torch.Tensor)):
        return {"sha256": sha_of(np.asarray(thing.detach().cpu() if isinstance(thing, torch.Tensor) else thing))}
    if isinstance(thing, TrainedModel):
        return {"model": thing.key, **({} if thing.test_transform is None else {"test": thing.test_transform.spec()})}
    frozen = getattr(getattr(thing, "__dataclass_params__", None), "frozen", False)
    if isinstance(thing, type) or not frozen:
        raise UsageError(f"{what} must be a frozen dataclass, so that its fields tell all about it, not {shown(thing)}")
    fields = {f.name: cache_key_form(getattr(thing, f.name), f"{what}.{f.name}") for f in dataclasses.fields(thing)}
    return {"class": type(thing).__qualname__, "code": code_of(type(thing)), "fields": fields}


def is_outside(thing: Any) -> bool:
    """Whether a loss or a perturbation, or an object in its fields, is of a class that benchbd does not ship."""
    if isinstance(thing, (list, tuple)):
        return any(map(is_outside, thing))
    if not dataclasses.is_dataclass(thing):
        return False
    fields = (getattr(thing, field.name) for field in dataclasses.fields(thing))
    return not type(thing).__module__.startswith("benchbd.") or any(map(is_outside, fields))


def plugin_fingerprint(plugin: Component) -> list[Any]:
    """What identifies a plugin in the keys of stages that its own code computes: kind, name, version, source digest."""
    return [plugin.kind, plugin.name, plugin.version, registry.source_digest(plugin.kind, plugin.name)]
