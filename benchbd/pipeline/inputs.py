"""Fingerprints of what a cell works on: its data, the files that they come from, and the network's initial weights."""

from __future__ import annotations

import dataclasses

from benchbd.errors import UsageError
from benchbd.plan.cell import Components
from benchbd.plugins.input_files import input_files_digest


@dataclasses.dataclass
class InputPrints:
    """The fingerprints that go into the record, each sha256 (hex) or None.

    Attributes:
        files: of the files that the data set reads; None if it names none.
        weight_files: of the files that the model reads; None if it names none.
        train: of the decoded training set; None until it is read.
        test: of the decoded test set; None until it is read.
        weights: of the network's initial weights that do not come from the seed; None if all do.
        attack_files: of the files that the attack reads; None if it names none.
        defense_files: of the user's files that the defense reads; None if it names none.
    """

    files: str | None = None
    weight_files: str | None = None
    train: str | None = None
    test: str | None = None
    weights: str | None = None
    attack_files: str | None = None
    defense_files: str | None = None

    def look(self, components: Components, root: str | None) -> None:
        """Look at the files; call it before they are read and after.

        Raises:
            UsageError: a file has changed since the call before, or cannot be read.
        """
        files = input_files_digest(components.dataset, root)
        weight_files = input_files_digest(components.model, None)
        attack_files = input_files_digest(components.attack, root)
        defense_files = input_files_digest(components.defense, None)
        for then, now, whose in (
            (self.files, files, f"data set {components.dataset.name!r}"),
            (self.weight_files, weight_files, f"model {components.model.name!r}"),
            (self.attack_files, attack_files, f"attack {components.attack.name!r}"),
            (self.defense_files, defense_files, f"defense {components.defense.name!r}"),
        ):
            if then not in (None, now):
                raise UsageError(f"{whose}: its files changed while the cell ran; run the cell again")
        self.files, self.weight_files = files, weight_files
        self.attack_files, self.defense_files = attack_files, defense_files

    def as_json(self) -> dict[str, str | None]:
        """The record's field ``data``; without an entry for the files of an attack or defense that reads none."""
        prints = dataclasses.asdict(self)
        return {k: v for k, v in prints.items() if v or k not in ("attack_files", "defense_files")}
