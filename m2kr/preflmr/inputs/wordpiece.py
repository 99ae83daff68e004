"""BERT's WordPiece tokenizer from a vocabulary, as the slow BertTokenizer of the official code cuts."""

import unicodedata
from typing import TYPE_CHECKING, Any

from m2kr.errors import InputError, MissingError
from m2kr.preflmr.inputs import local_files

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

LONGEST = 131_072
SPECIAL = {
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
}
DEFAULTS: dict[str, Any] = SPECIAL | {
    "do_basic_tokenize": True,
    "do_lower_case": True,
    "never_split": None,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
}
_LONGEST_WORD = 100  # characters; longer words become [UNK]
_MOST_TOKENS = 4_194_304
_SPACE = set("\t\n\r")
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")


def read_vocab(path: "Path") -> list[str]:
    """The tokens of a vocab.txt; a token's line is its id."""
    lines = local_files.read_text(path).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def folder_vocab(folder: "Path") -> list[str]:
    """The tokens of a tokenizer's folder, from vocab.txt or else tokenizer.json.

    Raises:
        InputError: tokenizer.json holds no WordPiece vocabulary.
        MissingError: The folder has neither file.
    """
    if (folder / "vocab.txt").is_file():
        return read_vocab(folder / "vocab.txt")
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise MissingError(
            "the tokenizer's vocabulary is missing",
            where=str(folder),
            expected="vocab.txt (or tokenizer.json)",
        )
    model = local_files.read_object(path).get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict) or not all(type(n) is int for n in vocab.values()):
        raise InputError("there is no WordPiece vocabulary in it", where=str(path))
    tokens = sorted(vocab, key=vocab.__getitem__)
    if [vocab[token] for token in tokens] != list(range(len(tokens))):
        raise InputError("the vocabulary's ids are not 0, 1, 2, …", where=str(path))
    return tokens


def build_pieces(tokens: list[str], config: "dict[str, Any]", *, where: str) -> "Tokenizer":
    """A tokenizer that yields bare pieces; [CLS], [SEP] and filling are the caller's.

    Args:
        tokens: The vocabulary in the order of ids.
        config: Keys of tokenizer_config.json.
        where: The file, for errors.

    Raises:
        InputError: Tokens repeat, or added tokens don't fit the vocabulary.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocab = {token: n for n, token in enumerate(tokens)}
    if not tokens or len(tokens) > _MOST_TOKENS or len(vocab) < len(tokens):
        raise InputError("the vocabulary is empty, too large or repeats a token", where=where)
    pieces = Tokenizer(
        models.WordPiece(
            vocab, unk_token=SPECIAL["unk_token"], max_input_chars_per_word=_LONGEST_WORD
        )
    )
    pieces.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_flag(config, "tokenize_chinese_chars", where) is not False,
        strip_accents=_flag(config, "strip_accents", where),
        lowercase=_flag(config, "do_lower_case", where) is not False,
    )
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _add(pieces, vocab, config, where)
    return pieces


def cleaned(text: str, config: "dict[str, Any]") -> str:
    """The text in a form that the ``tokenizers`` library cuts as Python's BertTokenizer does.

    Both drop "C" characters, strip accents (Mn) and cut around punctuation (P), but by the Unicode
    tables of Python here and by older ones there. So what Python drops becomes U+0001, which both drop
    (nothing at all could join the halves of a special token), and punctuation gets spaces around it.

    Args:
        text: Any text.
        config: Keys of tokenizer_config.json.
    """
    if text.isascii():
        return text
    strip, lower = config.get("strip_accents"), config.get("do_lower_case", True)
    accents = strip or (lower and strip is None)
    table = {}
    for char in set(text) - _SPACE:
        category = unicodedata.category(char)
        if category[0] == "C" or (accents and category == "Mn"):
            table[ord(char)] = "\x01"
        elif category[0] == "P" and not char.isascii():
            table[ord(char)] = f" {char} "
    return text.translate(table) if table else text


def added_tokens(pieces: "Tokenizer") -> "dict[int, dict[str, Any]]":
    """The entries of ``added_tokens_decoder``."""
    return {
        n: {"content": each.content} | {flag: getattr(each, flag) for flag in _FLAGS}
        for n, each in sorted(pieces.get_added_tokens_decoder().items())
    }


def _flag(config: "dict[str, Any]", key: str, where: str) -> bool | None:
    value = config.get(key, DEFAULTS[key])
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{key} is {value!r:.80}", where=where, expected="true or false")
    return value


def _add(pieces: "Tokenizer", vocab: dict[str, int], config: "dict[str, Any]", where: str) -> None:
    """Tokens that are found in the text before anything is split, special ones first of all."""
    from tokenizers import AddedToken

    decoder = config.get("added_tokens_decoder") or {
        str(vocab[token]): {"content": token, "special": True}
        for token in SPECIAL.values()
        if token in vocab
    }
    try:
        entries = sorted((int(n), dict(each)) for n, each in decoder.items())
        wanted = [
            (n, AddedToken(each["content"], **{f: bool(each.get(f, False)) for f in _FLAGS}))
            for n, each in entries
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"added_tokens_decoder is malformed: {error!r}", where=where) from None
    for n, token in wanted:
        pieces.add_tokens([token])
        if pieces.token_to_id(token.content) != n:
            raise InputError(
                f"the added token {token.content!r:.80} has id {n}, "
                f"but {pieces.token_to_id(token.content)} is its place",
                where=where,
            )
