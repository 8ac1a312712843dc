"""A text file as text: gzip by its name, UTF-8, UTF-16 or UTF-32 by its mark, line by line in errors."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from nopsd.errors import DataError

GZIP = b"\x1f\x8b"
LFS = "version https://git-lfs.github.com/"
# UTF-32's little-endian mark begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def kind_of(path: Path) -> str:
    """Its suffix, that of `.jsonl.gz` being `.jsonl`; in lower case."""
    return (path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix).lower()


def read_text(path: Path) -> str:
    """The whole file, without its mark. DataError if it isn't the text that its name says."""
    data = _unzipped(path)
    mark, encoding = next(((mark, name) for mark, name in MARKS if data.startswith(mark)), (b"", "utf-8"))
    data = data[len(mark) :]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not {encoding.upper()} ({error.reason} at byte {error.start}): re-encode the file"
        ) from error
    text = text.lstrip("\ufeff")  # a mark written twice
    if text.startswith(LFS):
        raise DataError(f"{path}: is a pointer of Git LFS, not the file itself: run `git lfs pull`")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}:{line}: a NUL byte, which is no text: re-encode the file as UTF-8")
    return text


def _unzipped(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): check its permissions") from error
    if path.suffix.lower() != ".gz":
        if data.startswith(GZIP):
            raise DataError(f"{path}: is compressed by gzip: name it {path.name}.gz")
        return data
    if not data.startswith(GZIP):
        raise DataError(f"{path}: is not gzip, whatever its name says: rename it without .gz")
    try:
        return gzip.decompress(data)
    except EOFError as error:
        raise DataError(f"{path}: its gzip ends too early: the file was cut, copy it again") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path}: its gzip is damaged ({error}): copy it again") from error
