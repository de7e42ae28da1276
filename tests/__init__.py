"""Tests, and what they run against: `tests.sim`, `tests.processes`, `tests.raw_tcp`."""
