"""The memoised workbench of a defense, and what its stages cost."""

from benchbd import deprecated

deprecated.old_names(__name__, Lab="benchbd:Lab", Trained="benchbd:TrainedModel", TrainSet="benchbd:TrainSet")
