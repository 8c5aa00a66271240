"""Pools of workers on a real Ray cluster; only where Ray is installed: `make test-ray`."""
