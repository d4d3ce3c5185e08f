"""Reads what is in a model file, as data and within bounds: such a file may come from anybody.

torch's own restricted loader runs no code of a file, but it lets one ask for any amount of memory
(``bytearray(10**12)``, members that unpack to gigabytes) and for tensors of every kind. So the file
is looked at first, and only what Splatbook itself writes is handed to torch.
"""

from __future__ import annotations

import io
import pickletools
import re
import stat
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

FORMAT = "splatbook-gaussians-1"
MOST_MEMBERS = 10_000  # of the archive; one has a member per tensor, and a handful more
MOST_FACTS = 1 << 20  # bytes of everything that is no tensor: some 2,000 long names of a stack
# All that a file's data may name. The storages are mere tags that tell a tensor's dtype.
KNOWN = re.compile(r"torch\._utils _rebuild_tensor_v2|torch \w+Storage|collections OrderedDict")
NAMING = ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")


class CheckpointError(ValueError):
    """A model file cannot be used; the message names it and says why and what to do."""


def read_content(path: Path) -> dict[str, Any]:
    """The dict that a model file holds; tensors are dense, in main memory, and want no gradient.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, of another kind, or holds anything but data.
    """
    try:
        with _opened(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats and encodings, which are refused
            _check_archive(path, file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} is no {FORMAT} file. Use a model.pt written by this version of Splatbook."
            )
        return _plain(content, path, {})
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no model file {path}. Check the path.") from error
    except Exception as error:  # torch.load meets damaged files with errors of many classes
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise CheckpointError(
            f"{path} cannot be read ({why}). It may be damaged: train again, or copy it anew."
        ) from error


def _opened(path: Path) -> BinaryIO:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device never ends
        raise CheckpointError(f"{path} is no plain file. Name a model.pt.")
    return path.open("rb")


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Refuse what torch would spend memory on, or follow, before it does."""
    size = path.stat().st_size
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is cut short, or no model file. Use a model.pt written by Splatbook."
        ) from error
    members = archive.infolist()
    # Splatbook stores members as they are, so that together they are smaller than their file.
    # Packed ones, or several that share their bytes, could announce any amount.
    # Both sizes count: a stored member has one size, but may claim another as its packed size,
    # and that is what zipfile makes room for.
    total = sum(max(member.file_size, member.compress_size) for member in members)
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or total > size or len(members) > MOST_MEMBERS:
        raise CheckpointError(
            f"{path} was not loaded: {size} bytes announce {len(members)} members of {total} "
            "bytes, and those of a model are stored unpacked. Use a model.pt written by Splatbook."
        )
    facts = [member for member in members if member.filename.endswith("data.pkl")]
    if len(facts) != 1 or facts[0].file_size > MOST_FACTS:
        raise CheckpointError(
            f"{path} was not loaded: its facts, data.pkl, are missing or have more than "
            f"{MOST_FACTS} bytes. Use a model.pt written by Splatbook."
        )
    _check_names(path, archive.read(facts[0]))


def _check_names(path: Path, facts: bytes) -> None:
    """Refuse facts that name any function or class but those that rebuild a plain tensor."""
    for operation, argument, _ in pickletools.genops(io.BytesIO(facts)):
        if operation.name in NAMING and not KNOWN.fullmatch(str(argument)):
            found = str(argument)[:80].replace(" ", ".")
            raise CheckpointError(
                f"{path} was not loaded: it names {found}, which may be code, and only data is "
                "ever read. Use a model.pt written by Splatbook."
            )


def _plain(value: Any, path: Path, done: dict[int, Any]) -> Any:
    """The same with plain tensors; what is named twice is looked at once."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Tensor):
        found: Any = _plain_tensor(value, path)
    elif isinstance(value, dict):
        found = {key: _plain(part, path, done) for key, part in value.items()}
    elif isinstance(value, list | tuple):
        found = [_plain(part, path, done) for part in value]
    else:
        return value
    done[id(value)] = found
    return found


def _plain_tensor(tensor: Tensor, path: Path) -> Tensor:
    """A dense tensor; one that repeats few stored numbers many times would outgrow its file."""
    usable = type(tensor) is Tensor and tensor.layout is torch.strided
    if not usable or tensor.device.type != "cpu" or tensor.is_quantized:
        kind = f"{type(tensor).__name__} ({tensor.layout}, {tensor.dtype}, {tensor.device})"
        raise CheckpointError(f"{path} is damaged: it holds a {kind}, and not plain tensors.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path} is damaged: a tensor of {tuple(tensor.shape)} has only "
            f"{tensor.untyped_storage().nbytes()} bytes. Train again."
        )
    return tensor.detach().resolve_conj().resolve_neg().contiguous()
