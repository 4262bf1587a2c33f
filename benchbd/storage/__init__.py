"""The files of a results folder: artifacts, records and locks. Damage to one file affects that file only."""
