"""The lab: suspects by every attack, purified by every purifier; a record a cell. `python -m benchmarks.lab --help`."""
