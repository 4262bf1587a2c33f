"""What everything stands on: values, files, recipes, parameters. Imports nothing of benchbd but its errors."""
