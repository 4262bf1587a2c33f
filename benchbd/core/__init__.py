"""Shared basics: values, files, recipes, parameters. Of benchbd, only its errors are imported here."""
