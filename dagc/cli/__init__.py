"""The command `dagc`: what a graph will do (explain) or did (report), what a machine can (doctor), how fast (bench)."""

from __future__ import annotations

from dagc.cli.command import main

__all__ = ["main"]
