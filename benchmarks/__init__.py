"""Commands that measure the figures of docs/benchmarks.md."""
