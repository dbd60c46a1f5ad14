"""A converted model on disk: made once, checked when it is found again, memory-mapped by every stage.

    <cache>/<name>/  manifest.json  config.json  tokenizer.json  chat_template.jinja  model.safetensors

Weights are kept as float32 although that is the largest form: a Q4_1 weight is scale * q + minimum with 16-bit scales,
which neither float16 nor bfloat16 holds exactly, and rounding it could change a greedy token. The file is mapped, not
read, so its size costs disk, and start-up does not grow with it.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from examples.llm.config import LlamaConfig

# Part of every manifest. Raise it when the code that makes a checkpoint changes, and old folders are made anew.
FORMAT = 1


class Checkpoint:
    """Where the parts of a converted model lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights_path = folder / "model.safetensors"
        self.tokenizer_path = folder / "tokenizer.json"
        self.chat_template_path = folder / "chat_template.jinja"
        self.config_path = folder / "config.json"

    @cached_property
    def config(self) -> LlamaConfig:
        return LlamaConfig.load(self.config_path)


def default_cache() -> Path:
    """$XDG_CACHE_HOME/dagc, or ~/.cache/dagc."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dagc"


def cached(cache: Path, name: str, source: Mapping[str, str | int], build: Callable[[Checkpoint], None]) -> Checkpoint:
    """The checkpoint `name` in the folder `cache`; `build` fills it first if it is missing, damaged or outdated.

    `source` says what it is made from; it is compared with the one recorded. The folder appears under its name by one
    rename, complete, so a conversion that was interrupted is never mistaken for a checkpoint, and of two processes that
    convert at the same time one wins.
    """
    folder = cache / name
    key = {"format": FORMAT, **source}
    if _is_valid(folder, key):
        return Checkpoint(folder)

    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}.") as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        build(Checkpoint(made))
        (made / "manifest.json").write_text(json.dumps({"key": key, "bytes": _sizes(made)}, indent=2) + "\n")
        if folder.exists():
            folder.rename(Path(scratch, "replaced"))
        try:
            made.rename(folder)
        except OSError:
            if not _is_valid(folder, key):  # otherwise another process was first, with the same
                raise
    return Checkpoint(folder)


def _is_valid(folder: Path, key: Mapping[str, object]) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(manifest["key"] == key and manifest["bytes"] == _sizes(folder))


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != "manifest.json"}
