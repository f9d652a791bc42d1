"""Run real coding agents dependably."""
