"""Benchmarks: one router process on one core, load and mock workers on another. See README.md."""
