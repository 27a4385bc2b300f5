"""Speed, size and accuracy beside other tools, measured again by `python -m benchmarks [NAME ...] [--quick]`."""
