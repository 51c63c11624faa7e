"""Support for tests and benchmarks."""
