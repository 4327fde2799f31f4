"""Floor 0: reading files nobody vouches for, writing files wholly or not at all."""

from amctc.files.folder import OutputFolder, output_folder
from amctc.files.paths import AnyPath
from amctc.files.reading import contained_path, open_contained, open_regular, read_bytes
from amctc.files.toml import parse_toml
from amctc.files.writing import atomic_write_bytes, atomic_write_text, atomic_writer

__all__ = [
    "AnyPath", "OutputFolder", "atomic_write_bytes", "atomic_write_text", "atomic_writer",
    "contained_path", "open_contained", "open_regular", "output_folder", "parse_toml", "read_bytes",
]  # fmt: skip
