"""The images that ASR and CA are over. A table has one definition of each and says it; records hold both."""

from __future__ import annotations

from typing import NamedTuple

ASR_OVER, CA_OVER = ("non-target", "all"), ("all", "non-target")
"""What ASR and CA may be over; the default is first."""


class Definitions(NamedTuple):
    """What the numbers of a board are over.

    Attributes:
        asr_over: ``non-target``: triggered test images of other classes than the target; ``all``: those of the target
            class too, which a model that ignores the trigger takes for the target.
        ca_over: ``all``: all test images; ``non-target``: those of other classes than the target.
    """

    asr_over: str = ASR_OVER[0]
    ca_over: str = CA_OVER[0]

    def fields(self) -> dict[str, str]:
        """The record's field of each metric that is not the field of that name."""
        other = {"asr": "asr_all"} if self.asr_over == "all" else {}
        return {**other, "ca": "ca_non_target"} if self.ca_over == "non-target" else other

    def heading(self, metric: str) -> str:
        """``CA`` or ``ASR``, with what it is over unless that is the default."""
        if metric not in self.fields():
            return metric.upper()
        return f"{metric.upper()} ({self.asr_over if metric == 'asr' else self.ca_over})"

    def reading(self) -> tuple[str, ...]:
        """What the legend says of definitions that are not the default."""
        said = []
        if self.asr_over == "all":
            said.append(
                "ASR (all) is over all triggered test images, those of the target class included, as in the code of "
                "input-aware attacks and I-BAU. It exceeds the usual ASR by up to the target class's share of the test "
                "images."
            )
        if self.ca_over == "non-target":
            said.append("CA (non-target) leaves the images of the target class out, as ABL's code does.")
        if said:
            said.append(
                "Records of versions that did not measure these are not shown. Lift, gate and clean ASR are over the "
                "images of other classes than the target in every table."
            )
        return tuple(said)


USUAL = Definitions()
