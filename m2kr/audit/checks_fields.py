"""Checks of fields: empty, broken, odd or foreign texts, and instructions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.audit.findings import Hit, Severity, audit_check, graded, labelled, shown
from m2kr.audit.near_texts import sketches

if TYPE_CHECKING:
    from m2kr.audit.facts import Facts

_BATCH = 10_000
_MOJIBAKE = (
    r"\x{fffd}|\x{c3}[\x{80}-\x{bf}\x{152}\x{153}\x{160}\x{161}\x{178}\x{17d}\x{17e}\x{192}\x{2c6}\x{2dc}"
    r"\x{2013}\x{2014}\x{2018}-\x{2022}\x{2026}\x{2030}\x{2039}\x{203a}\x{20ac}\x{2122}]|\x{e2}\x{20ac}|"
    r"\x{ef}\x{bb}\x{bf}|\x{c2}[\x{a0}-\x{bf}][a-z]"
)
_HTML = (
    r"(?i)</?(p|br|div|span|b|i|u|em|strong|a|ul|ol|li|td|tr|th|table|sup|sub|ref|img|h[1-6]|script|style)"
    r"(\s[^<>]*)?/?>|&(amp|lt|gt|quot|nbsp|apos|ndash|mdash|#\d{2,6}|#x[0-9a-f]{2,6});"
)
_CONTROLS = (
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}\x{200b}\x{2060}\x{feff}\x{202a}-\x{202e}\x{2066}-\x{2069}"
    r"\x{fffe}\x{ffff}]"
)
_PLACEHOLDER = r"(?i)^\s*(nan|none|null|n/a|undefined|nil|<na>|\[\]|\{\})\s*$"
_ANSWER_PLACEHOLDERS = frozenset(("nan", "null", "undefined", "<na>", "[]", "{}"))
_MANY_WORDS = 400  # of some 512 tokens that PreFLMR reads of a passage
_QUERY_WORDS = 60
# Scripts that a language is written in, as RE2 knows them; of all that aren't here, nothing is claimed.
_LATIN = "en de fr es it pt nl sv da no nb fi pl cs sk sl hr ro hu tr vi id ms et lv lt ca gl eu sq af sw tl"
_SCRIPTS = dict.fromkeys(_LATIN.split(), r"\p{Latin}") | {
    **dict.fromkeys(["ru", "uk", "bg", "mk", "be", "kk", "ky", "mn"], r"\p{Cyrillic}"),
    **dict.fromkeys(["ar", "fa", "ur", "ps"], r"\p{Arabic}"),
    **dict.fromkeys(["hi", "mr", "ne", "sa"], r"\p{Devanagari}"),
    **{"zh": r"\p{Han}", "ja": r"[\p{Han}\p{Hiragana}\p{Katakana}]", "ko": r"[\p{Hangul}\p{Han}]"},
    **{"el": r"\p{Greek}", "he": r"\p{Hebrew}", "th": r"\p{Thai}", "ta": r"\p{Tamil}"},
    **{"te": r"\p{Telugu}", "bn": r"\p{Bengali}", "ka": r"\p{Georgian}", "hy": r"\p{Armenian}"},
}


def _texts(facts: "Facts") -> Iterator[tuple[str, str, pa.ChunkedArray, pa.ChunkedArray]]:
    """Where, unit, ids and texts of all that is text."""
    for name, corpus in facts.corpora.items():
        yield name, "passages", corpus.ids, corpus.texts
    for split in facts.splits:
        yield split.name, "queries", split.ids, split.table.column("question")


def _matching(facts: "Facts", pattern: str, severity: Severity, effect: str) -> Iterator[Hit]:
    for where, unit, ids, texts in _texts(facts):
        rows = _rows_that_match(texts, pattern)
        if len(rows):
            examples = tuple(
                f"{ids[int(r)].as_py()}: {_around(texts[int(r)], pattern)}" for r in rows[:3]
            )
            yield Hit(where, severity, len(rows), len(texts), unit, effect, examples)


def _around(text: pa.Scalar, pattern: str) -> str:
    """What matches, with a little of what stands around it."""
    data = text.as_py().encode()
    start = pc.find_substring_regex(text, pattern).as_py()
    before, after = (part.decode(errors="ignore") for part in (data[:start], data[start:]))
    piece = ("…" if len(before) > 20 else "") + before[-20:] + after
    return shown(piece if piece.isprintable() else piece[:60].encode("unicode_escape").decode())


def _rows_that_match(texts: pa.ChunkedArray, pattern: str) -> "np.ndarray":
    found, start = [np.empty(0, np.int64)], 0
    for chunk in texts.chunks:
        mask = pc.fill_null(pc.match_substring_regex(chunk, pattern), False)
        found.append(start + np.flatnonzero(mask.to_numpy(zero_copy_only=False)))
        start += len(chunk)
    return np.concatenate(found)


@audit_check("mojibake", "decode the source file anew, as UTF-8 or what it is in")
def mojibake(facts: "Facts") -> Iterator[Hit]:
    """Texts that were decoded wrongly, such as 'CafÃ©', or hold the replacement character."""
    yield from _matching(
        facts, _MOJIBAKE, "warning", "these words match nothing that is spelt right"
    )


@audit_check("markup", "strip tags, and unescape entities")
def markup(facts: "Facts") -> Iterator[Hit]:
    """Texts with HTML tags or entities."""
    yield from _matching(
        facts, _HTML, "warning", "tags are words to every retriever, and take its tokens"
    )


@audit_check("control-characters", "take them out")
def controls(facts: "Facts") -> Iterator[Hit]:
    """Texts with control, zero-width or direction characters."""
    effect = "words with them match nothing, and tokenizers differ in what they make of them"
    yield from _matching(facts, _CONTROLS, "warning", effect)


@audit_check("placeholder-texts", "leave the text empty, or the record out")
def placeholders(facts: "Facts") -> Iterator[Hit]:
    """Texts or answers that are 'nan', 'None', 'null' or the like: an absent value was written as text."""
    effect = "they are retrieved and asked as if they were texts"
    yield from _matching(facts, _PLACEHOLDER, "warning", effect)
    for split in facts.splits:
        rows = [i for i, of in enumerate(split.answers) if _ANSWER_PLACEHOLDERS & set(of)]
        if rows:
            effect = "pseudo recall looks for these letters, and finds 'nan' in 'finance'"
            examples = tuple(map(split.example, rows[:3]))
            total, unit = len(split.answered), "queries with answers"
            yield Hit(split.name, "warning", len(rows), total, unit, effect, examples)


@audit_check("outer-blanks", "trim the texts")
def outer_blanks(facts: "Facts") -> Iterator[Hit]:
    """Texts that begin or end with blanks."""
    effect = "no score of m2kr changes; tools that compare texts take them for others"
    for hit in _matching(facts, r"^\s+\S|\S\s+$", "note", effect):
        if hit.share > 0.01:
            yield hit


@audit_check("empty-passages", "leave them out, or fill in their text")
def empty_passages(facts: "Facts") -> Iterator[Hit]:
    """Passages without text; those with an image are counted where that is unusual."""
    for name, corpus in facts.corpora.items():
        image = corpus.table.column("image").is_valid().to_numpy()
        bare = np.flatnonzero(corpus.empty & ~image)
        if len(bare):
            judged = [s.rows[s.positive] for s in facts.splits_of(corpus)]
            right = int(np.isin(bare, np.concatenate([np.empty(0, np.int64), *judged])).sum())
            effect = (
                f"nothing can retrieve them but chance; {right:,} are right passages of a query"
            )
            severity: Severity = "error" if right else "warning"
            yield Hit(
                name,
                severity,
                len(bare),
                len(corpus),
                "passages",
                effect,
                tuple(corpus.ids_at(bare[:3])),
            )
        silent = np.flatnonzero(corpus.empty & image)
        if 0 < len(silent) < 0.5 * len(corpus):
            effect = "a retriever of texts can't find them"
            yield Hit(
                name,
                "note",
                len(silent),
                len(corpus),
                "passages have an image alone",
                effect,
                tuple(corpus.ids_at(silent[:3])),
            )


@audit_check("empty-queries", "leave them out")
def empty_queries(facts: "Facts") -> Iterator[Hit]:
    """Queries with neither a question nor an image."""
    for split in facts.splits:
        blank = np.array([not question.strip() for question in split.questions], bool)
        rows = np.flatnonzero(blank & ~split.with_image)
        if len(rows):
            judged = split.positives > 0
            share = judged[rows].sum() / max(1, judged.sum())
            effect = f"nothing is asked: they lower hit_rate by up to {share:.3f}"
            examples = tuple(split.ids[int(i)].as_py() for i in rows[:3])
            yield Hit(split.name, "error", len(rows), len(split), "queries", effect, examples)


@audit_check("empty-answers", "leave blank answers out")
def empty_answers(facts: "Facts") -> Iterator[Hit]:
    """Answers that are blank: official pseudo recall finds them in every text."""
    for split in facts.splits:
        rows = [i for i, of in enumerate(split.answers) if "" in of]
        if rows:
            answered = len(split.answered)
            share = len(rows) / answered
            effect = (
                f"any text answers them: PR@K is at least {share:.3f}; see pseudo_recall_nonempty"
            )
            severity = graded(share, error=0.01)
            examples = tuple(map(split.example, rows[:3]))
            yield Hit(
                split.name, severity, len(rows), answered, "queries with answers", effect, examples
            )


@audit_check("untyped-columns", "leave the columns out, or give them a type")
def untyped(facts: "Facts") -> Iterator[Hit]:
    """Columns or fields that hold nothing but nulls."""
    for where, names in facts.benchmark.untyped.items():
        effect = "parts of a data set that have values there can't be joined to them, nor cast"
        yield Hit(where, "note", len(names), 0, "columns", effect, tuple(names[:3]))


@audit_check("long-texts", "cut long texts into passages, with the judgements")
def long_texts(facts: "Facts") -> Iterator[Hit]:
    """Passages of more than 400 words, of which most encoders read the beginning alone."""
    for name, corpus in facts.corpora.items():
        words = corpus.sketched.words
        rows = np.flatnonzero(words > _MANY_WORDS)
        if len(rows):
            right = [
                int(np.isin(split.rows[split.positive], rows).sum())
                for split in facts.splits_of(corpus)
            ]
            effect = (
                f"up to {words.max():,} words, half have up to {int(np.median(words)):,}; an encoder of 512 "
                f"tokens sees the first 400 or so; {sum(right):,} positive judgements are of such passages"
            )
            severity = graded(len(rows) / len(corpus), warning=0.2)
            examples = tuple(
                f"{i}: {words[row]:,} words"
                for i, row in zip(corpus.ids_at(rows[:3]), rows[:3], strict=True)
            )
            yield Hit(name, severity, len(rows), len(corpus), "passages", effect, examples)


@audit_check("long-queries", "ask shorter, or use an encoder that reads them whole")
def long_queries(facts: "Facts") -> Iterator[Hit]:
    """Queries of more than 60 words with their instruction."""
    for split in facts.splits:
        words = sum(
            sketches(split.table.column(name)).words for name in ("question", "instruction")
        )
        rows = np.flatnonzero(np.asarray(words) > _QUERY_WORDS)
        if len(rows):
            effect = (
                f"up to {np.max(words):,} words: PreFLMR reads 32 tokens of a query, others 64; what comes "
                "after is not asked"
            )
            severity = graded(len(rows) / len(split), warning=0.2)
            examples = tuple(map(split.example, rows[:3].tolist()))
            yield Hit(split.name, severity, len(rows), len(split), "queries", effect, examples)


@audit_check("short-texts", "look whether their text was lost")
def short_texts(facts: "Facts") -> Iterator[Hit]:
    """Passages of one or two words in a corpus whose passages are longer."""
    for name, corpus in facts.corpora.items():
        words = corpus.sketched.words
        if not len(words) or np.median(words) < 20:
            continue
        rows = np.flatnonzero((words <= 2) & ~corpus.empty)
        if len(rows):
            effect = f"half have at least {int(np.median(words)):,} words: little can be matched in these"
            examples = tuple(
                labelled(i, t)
                for i, t in zip(corpus.ids_at(rows[:3]), corpus.text_at(rows[:3]), strict=True)
            )
            severity = graded(len(rows) / len(corpus), warning=0.05)
            yield Hit(name, severity, len(rows), len(corpus), "passages", effect, examples)


@audit_check("wrong-language", "correct the language, or leave the passages out")
def language(facts: "Facts") -> Iterator[Hit]:
    """Passages whose letters are not of the script that their language is written in (on a sample)."""
    for name, corpus in facts.corpora.items():
        rows = np.arange(len(corpus))
        if len(rows) > _BATCH:
            rows = np.sort(np.random.default_rng(0).choice(rows, _BATCH, replace=False))
        texts = pa.array(corpus.text_at(rows), pa.string())
        claimed = corpus.table.column("language")
        if claimed.null_count == len(claimed):
            continue
        codes = np.array([(claimed[int(row)].as_py() or "").lower()[:2] for row in rows])
        letters = pc.count_substring_regex(texts, r"\pL").to_numpy()
        wrong: list[int] = []
        for code in np.unique(codes):
            if code in _SCRIPTS:
                here = np.flatnonzero(codes == code)
                of_script = pc.count_substring_regex(
                    texts.take(pa.array(here)), _SCRIPTS[code]
                ).to_numpy()
                few = (letters[here] >= 20) & (of_script < 0.3 * letters[here])
                wrong += here[few].tolist()
        if wrong:
            effect = "the language that is claimed is what people filter and choose encoders by"
            examples = tuple(
                labelled(f"{corpus.ids_at([rows[i]])[0]} ({codes[i]})", texts[i].as_py(), 40)
                for i in sorted(wrong)[:3]
            )
            severity = graded(len(wrong) / len(rows), warning=0.005)
            unit = "sampled passages" if len(rows) < len(corpus) else "passages"
            yield Hit(name, severity, len(wrong), len(rows), unit, effect, examples)


@audit_check("missing-instructions", "give every query an instruction, or none")
def no_instruction(facts: "Facts") -> Iterator[Hit]:
    """Queries without an instruction, in a split where others have one."""
    for split in facts.splits:
        blank = [not (text or "").strip() for text in split.column("instruction")]
        if 0 < sum(blank) < len(blank):
            rows = np.flatnonzero(blank)
            effect = "they are encoded in another form than the others"
            examples = tuple(map(split.example, rows[:3].tolist()))
            yield Hit(split.name, "warning", len(rows), len(split), "queries", effect, examples)


@audit_check("dominant-instruction", "draw instructions evenly, or use one")
def dominant(facts: "Facts") -> Iterator[Hit]:
    """Splits with several instructions of which one has nearly all queries."""
    for split in facts.splits:
        if len(split) < 20:
            continue
        counts = pc.value_counts(split.table.column("instruction").combine_chunks()).to_pylist()
        top = max(counts, key=lambda entry: entry["counts"])
        if (
            len(counts) > 1
            and 0.9 <= top["counts"] / len(split) < 1
            and (top["values"] or "").strip()
        ):
            effect = f"{len(counts):,} instructions; one has {top['counts'] / len(split):.1%} of the queries"
            examples = (shown(top["values"], 80),)
            yield Hit(split.name, "note", top["counts"], len(split), "queries", effect, examples)


@audit_check(
    "instructions-differ",
    "use the same instructions in all splits, or say that they are new on purpose",
)
def differ(facts: "Facts") -> Iterator[Hit]:
    """Queries whose instruction does not occur in the split that is trained on."""
    for train, test in facts.pairs_of_splits():
        ours, theirs = test.table.column("instruction"), train.table.column("instruction")
        new = pc.invert(pc.is_in(ours, value_set=theirs.unique()))
        if not len(train) or not len(test):
            continue
        count = pc.sum(new).as_py() or 0
        if count >= 0.01 * len(test):
            effect = f"their instruction is one that {train.name} never uses"
            examples = tuple(shown(text, 80) for text in ours.filter(new).unique().to_pylist()[:3])
            severity = graded(count / len(test), warning=0.05)
            where = f"{train.name}/{test.name}"
            unit = f"queries of {test.name}"
            yield Hit(where, severity, count, len(test), unit, effect, examples)
