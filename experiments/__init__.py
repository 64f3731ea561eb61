"""The papers' recipes and ours, benchmarks and figures: run as `python -m experiments NAME` in a checkout."""
