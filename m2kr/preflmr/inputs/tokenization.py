"""The two tokenizers: texts to ids and masks as ColBERT lays them out, equal to the official ones.

Both are BERT's lower-casing WordPiece (built with the ``tokenizers`` library from vocab.txt). A full
stop and a space go before the text to reserve position 1, which then takes the side's marker:
``[unused0]`` for queries, ``[unused1]`` for documents. Queries are filled with ``[MASK]``, documents
with ``[PAD]``. Nothing here has state between calls: one tokenizer serves many threads.
"""

import dataclasses
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from m2kr import atomic
from m2kr.errors import InputError, UsageError
from m2kr.preflmr.inputs import local_files, wordpiece

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer
    from torch import Tensor

_SHORTEST = 3  # [CLS], the marker, [SEP]


@dataclass(frozen=True, eq=False)
class _MarkedTokenizer:
    """What both sides share; ``maxlen`` is query_maxlen or doc_maxlen."""

    pieces: "Tokenizer"
    settings: "dict[str, Any]" = dataclasses.field(default_factory=dict)

    MARKER: ClassVar[str]
    FOLDER: ClassVar[str]
    LENGTH_KEY: ClassVar[str]
    CLASS: ClassVar[str]
    DEFAULT_LENGTH: ClassVar[int]

    def __post_init__(self) -> None:
        if not _SHORTEST <= self.maxlen <= wordpiece.LONGEST:
            raise InputError(
                f"{self.LENGTH_KEY} is {self.maxlen!r}",
                expected=f"a whole number from {_SHORTEST} to {wordpiece.LONGEST:,}",
            )
        for token in ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", self.MARKER):
            if self.pieces.token_to_id(token) is None:
                raise InputError(f"the vocabulary lacks {token}", expected="BERT's vocabulary")

    @property
    def maxlen(self) -> int:
        """Tokens of a text where the call says nothing else."""
        value = self.settings.get(self.LENGTH_KEY)
        if value is None:
            return self.DEFAULT_LENGTH
        return value if type(value) is int else -1

    @property
    def vocab_size(self) -> int:
        """Token ids are below this, added tokens included."""
        return int(self.pieces.get_vocab_size(with_added_tokens=True))

    @classmethod
    def from_vocab(cls, vocab: "str | Path", **settings: Any) -> Self:
        """A tokenizer from a vocab.txt alone.

        Args:
            vocab: The file, one token a line.
            settings: Keys of tokenizer_config.json, such as ``query_maxlen``.
        """
        tokens = wordpiece.read_vocab(Path(vocab))
        return cls(wordpiece.build_pieces(tokens, settings, where=str(vocab)), settings)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: "str | Path",
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        **settings: Any,
    ) -> Self:
        """The tokenizer of a checkpoint, without network where the folder is local.

        Args:
            checkpoint: A checkpoint's folder, a tokenizer's folder, or a hub id.
            subfolder: The tokenizer's folder inside; found by itself where absent.
            revision: Commit, tag or branch of a hub id.
            settings: Override keys of tokenizer_config.json, such as ``query_maxlen``;
                ``text_config`` and ``config``, which the official loaders want, are ignored.

        Raises:
            InputError: A file is malformed.
            MissingError: There is no vocabulary.
        """
        from m2kr.preflmr.inputs.files import local_folder

        root = local_folder(checkpoint, revision)
        folder = root / (cls.FOLDER if subfolder is None else subfolder)
        if subfolder is None and not folder.is_dir():
            folder = root
        for ignored in ("text_config", "config", "trust_remote_code", "use_fast", "_from_auto"):
            settings.pop(ignored, None)
        path = folder / "tokenizer_config.json"
        config = (local_files.read_object(path) if local_files.present(path) else {}) | settings
        try:
            tokens = wordpiece.folder_vocab(folder)
            return cls(wordpiece.build_pieces(tokens, config, where=str(folder)), config)
        except InputError as error:
            raise InputError(
                error.what, where=error.where or str(path), expected=error.expected, fix=error.fix
            ) from None

    def save_pretrained(self, folder: "str | Path") -> None:
        """Writes vocab.txt, tokenizer_config.json and special_tokens_map.json as the official code.

        Args:
            folder: The tokenizer's own folder, made if absent.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        base = self.pieces.get_vocab(with_added_tokens=False)
        tokens = sorted(base, key=base.__getitem__)
        atomic.write_text(folder / "vocab.txt", "".join(f"{token}\n" for token in tokens))
        added = wordpiece.added_tokens(self.pieces)
        config = wordpiece.DEFAULTS | self.settings
        # model_max_length is 1e30 in the released files, which is what its absence means.
        for key in (
            "auto_map",
            "model_max_length",
            "name_or_path",
            "special_tokens_map_file",
            "tokenizer_file",
        ):
            config.pop(key, None)
        config |= {
            self.LENGTH_KEY: self.maxlen,
            "added_tokens_decoder": {str(n): dict(each) for n, each in added.items()},
            "tokenizer_class": self.CLASS,
        }
        atomic.write_json(folder / "tokenizer_config.json", config)
        atomic.write_json(folder / "special_tokens_map.json", wordpiece.SPECIAL)
        beyond = {each["content"]: n for n, each in added.items() if n >= len(tokens)}
        if beyond:
            atomic.write_json(folder / "added_tokens.json", beyond)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Plain BERT ids of a text: no marker, no filling, not cut."""
        cleaned = wordpiece.cleaned(text, self.settings)
        ids = list(self.pieces.encode(cleaned, add_special_tokens=False).ids)
        return [self._id("[CLS]"), *ids, self._id("[SEP]")] if add_special_tokens else ids

    def _id(self, token: str) -> int:
        found = self.pieces.token_to_id(token)
        assert found is not None  # __post_init__ looked
        return int(found)

    def _encode(
        self, texts: "Sequence[str]", length: int, *, to_longest: bool
    ) -> "tuple[Tensor, Tensor]":
        """[CLS] marker pieces [SEP] filled with [PAD], and 1 for each token before the filling."""
        if length < _SHORTEST:
            raise UsageError(
                f"max_length is {length}", expected=f"{_SHORTEST} or more: [CLS], marker, [SEP]"
            )
        encoded = self.pieces.encode_batch_fast(
            [". " + wordpiece.cleaned(text, self.settings) for text in texts],
            add_special_tokens=False,
        )
        kept = [each.ids[1 : length - 2] for each in encoded]
        ends = np.fromiter(map(len, kept), np.int64, len(kept)) + _SHORTEST
        width = int(ends.max(initial=_SHORTEST)) if to_longest else length
        mask = np.arange(width) < ends[:, None]
        ids = np.full(mask.shape, self._id("[PAD]"), np.int64)
        ids[:, 0], ids[:, 1] = self._id("[CLS]"), self._id(self.MARKER)
        # All pieces at once, into the columns between the marker and [SEP].
        flat = np.fromiter(
            chain.from_iterable(kept), np.int64, int(ends.sum()) - _SHORTEST * len(ends)
        )
        ids[:, 2 : width - 1][mask[:, _SHORTEST:]] = flat
        ids[np.arange(len(ends)), ends - 1] = self._id("[SEP]")
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


class QueryTokenizer(_MarkedTokenizer):
    """Queries: ``[CLS] [unused0] … [SEP]``, filled with ``[MASK]``.

    The fillers have attention 0 but give query rows of their own; ``attend_to_mask_tokens`` gives
    them attention 1.
    """

    MARKER = "[unused0]"
    FOLDER = "query_tokenizer"
    LENGTH_KEY = "query_maxlen"
    CLASS = "FLMRBertQueryEncoderTokenizer"
    DEFAULT_LENGTH = 32

    @property
    def attend_to_mask_tokens(self) -> bool:
        """Whether fillers are attended to."""
        return bool(self.settings.get("attend_to_mask_tokens", False))

    def __call__(
        self,
        text: "str | Sequence[str]",
        *,
        max_length: int | None = None,
        padding: str | bool = "max_length",
        truncation: bool = True,
        return_tensors: str = "pt",
    ) -> "dict[str, Tensor]":
        """Ids and attention masks of queries.

        Args:
            text: One query or several; one gives a batch of one.
            max_length: Tokens of a query, `maxlen` if absent. Longer texts are cut.
            padding: Only ``"max_length"``: how many fillers a query has changes its score.
            truncation: Must be true; the official calls pass it.
            return_tensors: Must be ``"pt"``, likewise.

        Returns:
            ``input_ids`` and ``attention_mask``, int64, both (queries x max_length).
        """
        _only_ours(padding in ("max_length",), truncation, return_tensors)
        texts = [text] if isinstance(text, str) else list(text)
        length = self.maxlen if max_length is None else max_length
        ids, mask = self._encode(texts, length, to_longest=False)
        ids[ids == self._id("[PAD]")] = self._id("[MASK]")
        if self.attend_to_mask_tokens:
            mask[ids == self._id("[MASK]")] = 1
        return {"input_ids": ids, "attention_mask": mask}


class ContextTokenizer(_MarkedTokenizer):
    """Documents: ``[CLS] [unused1] … [SEP]``, filled with ``[PAD]``."""

    MARKER = "[unused1]"
    FOLDER = "context_tokenizer"
    LENGTH_KEY = "doc_maxlen"
    CLASS = "FLMRBertContextEncoderTokenizer"
    DEFAULT_LENGTH = 512

    def __call__(
        self,
        text: "str | Sequence[str]",
        *,
        max_length: int | None = None,
        padding: str | bool = "max_length",
        truncation: bool | str = True,
        return_tensors: str = "pt",
    ) -> "dict[str, Tensor]":
        """Ids and attention masks of documents.

        Args:
            text: One document or several.
            max_length: Tokens of a document; never more than `maxlen`. Longer texts are cut.
            padding: ``"max_length"`` as the official code, or ``"longest"`` (or true) for as many
                columns as the longest text of the batch needs; the model's results are the same.
            truncation: Must be true or ``"longest_first"``; the official calls pass it.
            return_tensors: Must be ``"pt"``, likewise.

        Returns:
            ``input_ids`` and ``attention_mask``, int64, both (documents x columns).
        """
        _only_ours(padding in ("max_length", "longest", True), truncation, return_tensors)
        texts = [text] if isinstance(text, str) else list(text)
        length = self.maxlen if max_length is None else min(max_length, self.maxlen)
        ids, mask = self._encode(texts, length, to_longest=padding != "max_length")
        return {"input_ids": ids, "attention_mask": mask}


def _only_ours(padding_known: bool, truncation: bool | str, return_tensors: str) -> None:
    if not padding_known or truncation in (False, "do_not_truncate") or return_tensors != "pt":
        raise UsageError(
            "the tokenizer was asked for another form than PreFLMR's",
            expected="padding='max_length' (documents: or 'longest'), truncation=True, "
            "return_tensors='pt'",
        )
