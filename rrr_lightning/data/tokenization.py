"""From texts to token ids, in one of two modes.

`truncate`: one document is one sample, with the special tokens at its ends, cut to a length.
`pack`: documents follow each other, each with a separator at its end, and are cut into samples of
one length that begin with the start token; what is left at the end of a part is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rrr_lightning.data.masking import Tokens
from rrr_lightning.errors import InputError, check
from rrr_lightning.files import content_of, read_json
from rrr_lightning.tokens import single_threaded_tokenizers

Mode = Literal["truncate", "pack"]
MODES = ("truncate", "pack")
FEWEST_TOKENS = 2
# English has 4 to 5 characters a token, so of a longer text the rest is rarely needed.
CHARACTERS_PER_TOKEN = 6


class Encoder:
    """Encodes texts; words such as "[MASK]" in a text are text, never special tokens.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        mode: `truncate` or `pack`.
        length: Tokens of a sample, special ones included.
    """

    def __init__(self, tokenizer: Any, mode: Mode, length: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = tokenizer
        self.mode = mode
        self.length = length
        self.start, self.separator = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        description = tokenizer.backend_tokenizer.to_str()
        self._backend = Tokenizer.from_str(description)
        self._backend.encode_special_tokens = True
        self._backend.no_padding()
        self._backend.no_truncation()
        self._specials = 1
        if mode == "truncate":
            self._specials = self._backend.num_special_tokens_to_add(is_pair=False)
            self._backend.enable_truncation(length)
        self._cuts = mode == "truncate" and _splits_at_spaces(json.loads(description))

    def __reduce__(self) -> tuple[type[Encoder], tuple[Any, Mode, int]]:
        return Encoder, (self._tokenizer, self.mode, self.length)

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Returns the ids of each text: a sample, or for `pack` its tokens and a separator."""
        shorter = [self._beginning(text) for text in texts] if self._cuts else texts
        with single_threaded_tokenizers():
            ids = self._encode(shorter)
            again = [
                number
                for number, text in enumerate(texts)
                if len(ids[number]) < self.length and len(shorter[number]) < len(text)
            ]
            if self._cuts and again:
                for number, its in zip(again, self._encode([texts[n] for n in again]), strict=True):
                    ids[number] = its
        return ids

    def is_short(self, ids: list[int]) -> bool:
        """Whether a text has fewer than two tokens, special ones aside."""
        return len(ids) - self._specials < FEWEST_TOKENS

    def pack(self, stream: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns samples [N, length] from texts that follow each other; drops the rest."""
        rows = len(stream) // (self.length - 1)
        samples = np.full((rows, self.length), self.start, dtype=self.dtype)
        samples[:, 1:] = stream[: rows * (self.length - 1)].reshape(rows, self.length - 1)
        return samples

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if self.mode == "truncate":
            return [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [[*encoding.ids, self.separator] for encoding in encodings]

    def _beginning(self, text: str) -> str:
        """The text up to a space behind which a sample of this length rarely reaches."""
        enough = CHARACTERS_PER_TOKEN * self.length
        if len(text) <= enough:
            return text
        space = text.find(" ", enough)
        return text if space < 0 else text[:space]


def _splits_at_spaces(tokenizer: dict[str, Any]) -> bool:
    """Whether the tokens before a space do not depend on what follows: so it is with BERT's."""
    kinds = {part: (tokenizer.get(part) or {}).get("type") for part in ("normalizer", "model")}
    return (
        (tokenizer.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and kinds["normalizer"] in (None, "BertNormalizer", "Lowercase")
        and kinds["model"] == "WordPiece"
    )


# ----------------------------------------------------------------------
# Tokenized documents as they lie on the disk, in Arrow files that are mapped into memory.


SUMMARY = "prepared.json"
KEY = "data.cache_dir"


def write_part(
    path: Path, ids: npt.NDArray[Any], lengths: npt.NDArray[np.int64], counts: Mapping[str, int]
) -> None:
    """Writes an Arrow file."""
    import pyarrow

    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    samples = pyarrow.ListArray.from_arrays(offsets, pyarrow.array(ids))
    metadata = {name: str(count) for name, count in counts.items()}
    schema = pyarrow.schema([("ids", samples.type)], metadata=metadata)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
        writer.write_batch(pyarrow.record_batch([samples], schema=schema))


def describe_part(path: Path) -> dict[str, Any]:
    """Returns the name, size, number of samples and metadata of a file."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        reader = pyarrow.ipc.open_file(file)
        return {
            "file": path.name,
            "bytes": path.stat().st_size,
            "samples": reader.get_batch(0).num_rows,
            **{name.decode(): int(count) for name, count in reader.schema.metadata.items()},
        }


class MappedSamples:
    """The samples of a prepared folder; nothing is read before it is asked for.

    Args:
        folder: What `prepare` returned.

    Raises:
        InputError: A file is missing or is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary: dict[str, Any] = read_json(folder / SUMMARY, KEY)
        with content_of(folder / SUMMARY, KEY):
            self._parts = [_open(folder, part) for part in self.summary["parts"]]
            lengths = [len(offsets) - 1 for _, offsets in self._parts]
            stated = [part["samples"] for part in self.summary["parts"]]
            check(stated == lengths, KEY, stated, str(lengths), "states other numbers of samples")
        self._starts = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> tuple[type[MappedSamples], tuple[Path]]:
        return MappedSamples, (self.folder,)

    def padded(
        self, indices: Sequence[int], length: int, padding: int
    ) -> tuple[Tokens, npt.NDArray[np.int64]]:
        """Returns samples as rows of one length, and how long each is."""
        ids_BT = np.full((len(indices), length), padding, dtype=np.int64)
        lengths_B = np.zeros(len(indices), dtype=np.int64)
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        for row, (index, part) in enumerate(zip(indices, parts.tolist(), strict=True)):
            ids, offsets = self._parts[part]
            place = index - self._starts[part]
            start, end = offsets[place], offsets[place + 1]
            ids_BT[row, : end - start] = ids[start:end]
            lengths_B[row] = end - start
        return ids_BT, lengths_B


def _open(folder: Path, part: dict[str, Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    import pyarrow

    check(Path(part["file"]).name == part["file"], KEY, part["file"], "a name", "leaves its folder")
    path = folder / part["file"]
    size = path.stat().st_size if path.exists() else None
    if size != part["bytes"]:
        raise InputError(
            "is not as it was written" if path.exists() else "is missing",
            key=KEY,
            found=str(path),
            accepted=f"remove {folder}, and it is prepared again",
        )
    with pyarrow.memory_map(str(path)) as file:  # closing it keeps what the arrays refer to
        samples = pyarrow.ipc.open_file(file).get_batch(0).column(0)
    return samples.values.to_numpy(zero_copy_only=True), samples.offsets.to_numpy()
