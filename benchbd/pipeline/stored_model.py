"""The model of a finished cell, read back from the store."""

from __future__ import annotations

from typing import Any

from benchbd.core.transform import Patch, TestTransform
from benchbd.errors import UsageError, one_line, shown
from benchbd.plan.cell import Cell
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.plugins.trained import ModelSpec, TrainedModel
from benchbd.storage.artifacts import Store


def stored_model(record: dict[str, Any], store: Store) -> tuple[Cell, TrainedModel, ModelSpec]:
    """The cell of a record, the model that its defense returned, and how that model is built.

    Args:
        record: the cell's record.
        store: the store of its results folder.

    Raises:
        UsageError: the cell has no model, the store no longer has it, or the model's code here does not fit it.
    """
    label = record["label"]
    key = (record.get("artifacts") or {}).get("model")
    if record["status"] != "done" or not isinstance(key, str):
        raise UsageError(f"cell {label} is {record['status']}, not done, so it has no model")
    cell = Cell.from_json({"spec": record["spec"], "matrix": record.get("matrix") or ""})
    found = store.get("model", key)
    if found is None:
        again = f"benchbd rerun {record['id']} --output {store.root.parent}"
        raise UsageError(f"cell {label}: its model is no longer in {store.root}; train it again with: {again}")
    components = cell.components()
    info, normalisation = components.dataset.info(), components.dataset.normalisation
    other = (record.get("notes") or {}).get("architecture")
    model = components.model if other is None else registry.make("models", str(other))
    part = cell.model if other is None else part_of(model)
    spec = ModelSpec(model, part, info.classes, info.size, normalisation)
    transform = found.meta.get("test_transform")
    given = None if transform is None else transform_of(transform, info.classes, info.size)
    trained = TrainedModel(key, found.arrays, spec, list(found.meta.get("epoch_losses", ())), 0, test_transform=given)
    try:
        trained.module()
    except RuntimeError as error:
        why = one_line(error)[:200]
        raise UsageError(f"cell {label}: {part.text} has changed and cannot load the stored weights ({why})") from None
    return cell, trained, spec


def transform_of(spec: Any, classes: int, size: int) -> TestTransform:
    """The test transform that a record, an artifact or a file describes (:meth:`TestTransform.spec`).

    Raises:
        UsageError: it describes none, or does not fit the classes or the size.
    """
    try:
        stamp = spec.get("stamp")
        found = TestTransform(None if stamp is None else Patch(**stamp), spec.get("label_map"))
    except (AttributeError, TypeError) as error:
        raise UsageError(f"{shown(spec)} is not a test transform") from error
    return found.checked(classes, size)
