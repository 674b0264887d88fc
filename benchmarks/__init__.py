"""What training costs, measured. `python -m benchmarks --help`."""
