"""Checks of what is there twice: ids, texts, queries, images; within a split and across splits."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2kr.audit.checks_judgements import folded_id
from m2kr.audit.facts import CorpusFacts, Facts, SplitFacts, some_of
from m2kr.audit.findings import Hit, audit_check, graded, labelled, shown
from m2kr.audit.image_looks import alike
from m2kr.audit.near_texts import MOST_PAIRS

if TYPE_CHECKING:
    from numpy.typing import NDArray


@audit_check("duplicate-passage-ids", "give each passage an id of its own, and judge anew")
def passage_ids(facts: Facts) -> Iterator[Hit]:
    """Passages that share an id."""
    for name, corpus in facts.corpora.items():
        effect = (
            "which of them is retrieved and right can't be told; tools keep the first or the last"
        )
        yield from _repeated_ids(name, corpus.ids, "passages", effect)


@audit_check("duplicate-query-ids", "give each query an id of its own")
def query_ids(facts: Facts) -> Iterator[Hit]:
    """Queries of a split that share an id."""
    for split in facts.splits:
        effect = "a run has one ranking for an id: the others are scored by it, or lost"
        yield from _repeated_ids(split.name, split.ids, "queries", effect)


def _repeated_ids(where: str, ids: pa.ChunkedArray, unit: str, effect: str) -> Iterator[Hit]:
    if len(ids.unique()) < len(ids):
        counts = pc.value_counts(ids)
        many = counts.filter(pc.greater(counts.field("counts"), 1))
        examples = tuple(f"{shown(r['values'])}: {r['counts']} times" for r in many[:3].to_pylist())
        count = pc.sum(many.field("counts")).as_py()
        unit = f"{unit} share their id with another one"
        yield Hit(where, "error", count, len(ids), unit, effect, examples)


@audit_check("ids-alike", "use ids that differ in more than case, blanks or Unicode form")
def ids_alike(facts: Facts) -> Iterator[Hit]:
    """Ids that differ in case, blanks, Unicode form or number format alone."""
    columns = [(name, corpus.ids, "passages") for name, corpus in facts.corpora.items()]
    columns += [(split.name, split.ids, "queries") for split in facts.splits]
    for where, ids, unit in columns:
        keys = np.concatenate(
            [np.empty(0, np.int64)]
            + [
                np.fromiter(map(hash, map(folded_id, part)), np.int64, len(part))
                for part in _parts(pc.unique(ids))
            ]
        )
        _, first, counts = np.unique(keys, return_index=True, return_counts=True)
        if len(first) < len(keys):
            distinct = pc.unique(ids)
            chosen = np.isin(keys, keys[first[counts > 1]][:3])
            groups: dict[str, list[str]] = defaultdict(list)
            for name in distinct.filter(pa.array(chosen)).to_pylist():
                groups[folded_id(name)].append(name)
            effect = "tools that fold ids mix them up; people and files will"
            examples = tuple(" and ".join(map(repr, names[:3])) for names in groups.values())
            count = int(counts[counts > 1].sum())
            unit = f"distinct ids of {unit}"
            yield Hit(where, "warning", count, len(keys), unit, effect, examples[:3])


def _parts(ids: pa.Array) -> Iterator[list[str]]:
    for start in range(0, len(ids), 10_000):
        yield ids.slice(start, 10_000).to_pylist()


@audit_check("query-ids-of-passages", "give queries ids of their own")
def shared_ids(facts: Facts) -> Iterator[Hit]:
    """Queries whose id is that of their right passage."""
    for split in facts.splits:
        pairs = split.qrels.take(pa.array(split.positive))
        same = pc.equal(pairs.column("question_id"), pairs.column("passage_id"))
        count = pc.sum(same).as_py() or 0
        if count:
            effect = (
                "BEIR's evaluation leaves out a passage with the query's id, so its scores are lower "
                "than others'; and a system that sees ids has the answer"
            )
            examples = tuple(pairs.filter(same).column("question_id")[:3].to_pylist())
            judged = int((split.positives > 0).sum())
            yield Hit(split.name, "warning", count, judged, "judged queries", effect, examples)


@audit_check("duplicate-texts", "keep one of them, or judge all of them")
def same_texts(facts: Facts) -> Iterator[Hit]:
    """Passages whose text is that of another one."""
    for name, corpus in facts.corpora.items():
        first = corpus.same_text
        repeats = np.flatnonzero(first != np.arange(len(first)))
        if len(repeats):
            groups = len(np.unique(first[repeats]))
            effect = (
                f"{_in_groups(len(repeats), groups, 'passages')} of one text; equal texts score alike, so "
                "the order of ids decides which of them is retrieved"
            )
            examples = _pairs(corpus, np.stack([first[repeats[:3]], repeats[:3]], axis=1))
            severity = graded(len(repeats) / len(corpus), warning=0.05)
            unit = "passages repeat the text of an earlier one"
            yield Hit(name, severity, len(repeats), len(corpus), unit, effect, examples)


def _in_groups(repeats: int, groups: int, unit: str) -> str:
    return f"{repeats + groups:,} {unit} in {groups:,} group{'s' if groups != 1 else ''}"


@audit_check("near-duplicate-texts", "look whether the unjudged ones are right, too")
def near_texts(facts: Facts) -> Iterator[Hit]:
    """Passages that share four fifths of their word triples with another one."""
    for name, corpus in facts.corpora.items():
        pairs, cut = corpus.near
        later = np.unique(pairs[:, 1])
        if len(later):
            queries = sum(_half_judged(split, pairs) for split in facts.splits_of(corpus))
            effect = (
                f"for {queries:,} queries one of two is right and the other not judged, "
                "and may be as right"
                + (f" (at least: {MOST_PAIRS:,} candidate pairs compared)" if cut else "")
            )
            severity = graded(len(later) / len(corpus), warning=0.2)
            yield Hit(
                name,
                severity,
                len(later),
                len(corpus),
                "passages nearly repeat the text of an earlier one",
                effect,
                _pairs(corpus, pairs[:3]),
            )


def _half_judged(split: SplitFacts, pairs: "NDArray[np.int64]") -> int:
    """Queries for which one passage of a pair is right and the other isn't judged."""
    right, judged = (
        _queries_of(split, rows, pairs)
        for rows in (split.positive, np.flatnonzero(split.owners >= 0))
    )
    return len(
        set().union(*((right[a] - judged[b]) | (right[b] - judged[a]) for a, b in pairs.tolist()))
    )


def _queries_of(
    split: SplitFacts, judgements: "NDArray[np.int64]", passages: "NDArray[np.int64]"
) -> dict[int, set[int]]:
    """By passage the queries of some judgements."""
    queries: dict[int, set[int]] = defaultdict(set)
    inside = judgements[np.isin(split.rows[judgements], passages)]
    for row, owner in zip(split.rows[inside].tolist(), split.owners[inside].tolist(), strict=True):
        queries[row].add(owner)
    return queries


def _pairs(corpus: CorpusFacts, pairs: "NDArray[np.int64]") -> tuple[str, ...]:
    return tuple(
        labelled(f"{a} and {b}", text, 40)
        for (a, b), text in zip(
            (corpus.ids_at(pair) for pair in pairs), corpus.text_at(pairs[:, 0]), strict=True
        )
    )


@audit_check("unjudged-copies", "judge the copies as right, or leave them out of the corpus")
def copies(facts: Facts) -> Iterator[Hit]:
    """Passages with the very text of a right one that are not judged right for that query."""
    for split in facts.splits:
        corpus = split.corpus
        first = corpus.same_text
        size = np.bincount(first, minlength=len(first))
        inside = split.positive[split.rows[split.positive] >= 0]
        rows, owners = split.rows[inside], split.owners[inside]
        if not len(inside):
            continue
        # Of each query and text: passages that are right, and passages that there are.
        keys, right = np.unique(owners * (len(first) + 1) + first[rows], return_counts=True)
        owner, text = keys // (len(first) + 1), keys % (len(first) + 1)
        copied = size[text] > right
        hit = np.unique(owner[copied])
        if not len(hit):
            continue
        # A ranking by text alone puts a right passage first with this chance, at best.
        best = np.zeros(len(split))
        np.maximum.at(best, owner, right / size[text])
        judged = split.positives > 0
        ceiling, without = (float(of[judged].mean()) for of in (best, split.reachable > 0))
        examples = []
        for query in hit[:3].tolist():
            place = np.flatnonzero((owner == query) & copied)[0]
            same = np.flatnonzero(first == text[place])[:6]
            others = [r for r in same.tolist() if r not in set(split.right_rows(query).tolist())]
            names = corpus.ids_at(others[:2])
            examples.append(f"{split.ids[query].as_py()}: {', '.join(names)}")
        effect = (
            f"a retriever of texts can't tell them apart: its hit_rate@1 is at most {ceiling:.3f} "
            f"in expectation, {without:.3f} without these copies"
        )
        severity = graded(without - ceiling, error=0.05)
        unit = "judged queries have a right passage with such a copy"
        total = int(judged.sum())
        yield Hit(split.name, severity, len(hit), total, unit, effect, tuple(examples))


@audit_check("duplicate-queries", "keep one, with the right passages of all")
def same_queries(facts: Facts) -> Iterator[Hit]:
    """Queries of a split that ask the same of the same image."""
    for split in facts.splits:
        groups = _groups(split.keys(lambda path: path))
        told = split.column("instruction")
        apart = all(len({told[row] for row in rows}) == len(rows) for rows in groups)
        right = split.right_ids(row for rows in groups for row in rows)
        differ = sum(any(right[row] != right[rows[0]] for row in rows) for rows in groups)
        count = sum(len(rows) - 1 for rows in groups)
        if count:
            effect = f"{_in_groups(count, len(groups), 'queries')} that ask the same; " + (
                f"in {differ:,} of them the right passages differ, so one ranking may not suit all"
                if differ
                else "each counts as often in a mean"
            )
            effect += ", unless by the instruction, which differs" if apart else ""
            examples = tuple(
                labelled(
                    " and ".join(split.ids[row].as_py() for row in rows[:2]),
                    split.questions[rows[0]],
                    40,
                )
                for rows in groups[:3]
            )
            share = count / len(split)
            severity = graded(share, warning=1 if apart else 0.02 if differ else 0.1)
            unit = "queries repeat an earlier one"
            yield Hit(split.name, severity, count, len(split), unit, effect, examples)


def _groups(keys: "NDArray[np.int64]") -> list[list[int]]:
    """Rows that share a key other than 0, by the first of them."""
    values, counts = np.unique(keys, return_counts=True)
    rows = np.flatnonzero(np.isin(keys, values[(counts > 1) & (values != 0)]))
    order = rows[np.argsort(keys[rows], kind="stable")]
    borders = np.flatnonzero(np.diff(keys[order])) + 1
    return sorted(group.tolist() for group in np.split(order, borders) if len(group))


@audit_check("queries-across-splits", "leave them out of the split that is trained on")
def leaked_queries(facts: Facts) -> Iterator[Hit]:
    """Queries that ask the same of the same image in a split that is trained on."""
    for train, test in facts.pairs_of_splits():
        ours, theirs = test.keys(facts.image_key), train.keys(facts.image_key)
        shared = np.flatnonzero(np.isin(ours, theirs) & (ours != 0)).tolist()
        if shared:
            known = _answered_alike(test, train, ours, theirs, shared)
            effect = (
                f"{known:,} of them have a right passage or an answer in {train.name} that is right here"
            ) + (
                f": scores of what was trained on {train.name} are too high on these"
                if known
                else ", so only the question was seen"
            )
            examples = tuple(
                f"{test.example(row)} = {train.ids[int(np.argmax(theirs == ours[row]))].as_py()}"
                for row in shared[:3]
            )
            severity = graded(known / len(test), error=0.05)
            if severity != "error":
                severity = graded(len(shared) / len(test), warning=0.001)
            where = f"{train.name}/{test.name}"
            unit = f"queries of {test.name} are asked in {train.name}, too"
            yield Hit(where, severity, len(shared), len(test), unit, effect, examples)


def _answered_alike(
    test: SplitFacts,
    train: SplitFacts,
    ours: "NDArray[np.int64]",
    theirs: "NDArray[np.int64]",
    shared: list[int],
) -> int:
    """Shared queries of which training tells a right passage or an answer; keys are of all queries."""
    told: dict[int, set[tuple[str, str]]] = defaultdict(set)
    for row, right in _right(train, np.flatnonzero(np.isin(theirs, ours[shared])).tolist()):
        told[int(theirs[row])] |= right
    return sum(not told[int(ours[row])].isdisjoint(right) for row, right in _right(test, shared))


def _right(split: SplitFacts, rows: list[int]) -> Iterator[tuple[int, set[tuple[str, str]]]]:
    """Of some queries right passages and answers."""
    for row, ids in split.right_ids(rows).items():
        answers = {("answer", answer) for answer in split.answers[row] if answer}
        yield row, answers | {("passage", name) for name in ids}


@audit_check("positives-across-splits", "report unseen passages on their own")
def shared_positives(facts: Facts) -> Iterator[Hit]:
    """Right passages that are right in a split that is trained on, too."""
    for train, test in facts.pairs_of_splits():
        names = [s.qrels.column("passage_id").take(s.positive).unique() for s in (train, test)]
        if not len(names[1]):
            continue
        shared = names[1].filter(pc.is_in(names[1], value_set=names[0]))
        if len(shared) >= 0.01 * len(names[1]):
            effect = f"they were right in {train.name}, too: what was trained there may know them by heart"
            where = f"{train.name}/{test.name}"
            examples = tuple(map(shown, shared[:3].to_pylist()))
            unit = f"right passages of {test.name}"
            yield Hit(where, "note", len(shared), len(names[1]), unit, effect, examples)


@audit_check(
    "missing-images", "add the images, or name them as they are called; --images DIR says where"
)
def missing_images(facts: Facts) -> Iterator[Hit]:
    """Images that are named and are not there."""
    benchmark = facts.benchmark
    if benchmark.no_images:
        named = facts.named_images - len(facts.looks)
        effect = f"they were not looked at: {benchmark.no_images}"
        if named:
            yield Hit("", "note", named, facts.named_images, "images", effect)
        return
    missing = [path for path, look in facts.looks.items() if look is None]
    if missing:
        effect = (
            "m2kr stops at the first; tools that go on show nothing or black" + facts.some_images
        )
        yield Hit("", "error", len(missing), len(facts.looks), "images", effect, tuple(missing[:3]))


@audit_check("broken-images", "fetch them again")
def broken_images(facts: Facts) -> Iterator[Hit]:
    """Images that can't be decoded."""
    broken = {path: look.fault for path, look in facts.looks.items() if look and look.fault}
    if broken:
        effect = "their queries or passages can't be encoded" + facts.some_images
        examples = tuple(
            f"{path}: {fault}"[:110] for path, fault in itertools.islice(broken.items(), 3)
        )
        yield Hit("", "error", len(broken), len(facts.looks), "images", effect, examples)


@audit_check("blank-images", "fetch them again, or leave them out")
def blank_images(facts: Facts) -> Iterator[Hit]:
    """Images of one colour, as a download that failed leaves them."""
    opened = {path: look for path, look in facts.looks.items() if look and not look.fault}
    blank = [path for path, look in opened.items() if look.blank]
    if blank:
        effect = (
            "they show nothing; their queries and passages have words alone" + facts.some_images
        )
        severity = graded(len(blank) / len(opened), error=0.05)
        yield Hit("", severity, len(blank), len(opened), "images", effect, tuple(blank[:3]))


@audit_check("duplicate-images", "keep one name for an image")
def same_images(facts: Facts) -> Iterator[Hit]:
    """Images of one split or corpus that are equal to the byte under different names."""
    for name, paths in facts.paths.items():
        opened = [p for p in paths if (look := facts.looks.get(p)) and look.sha256]
        hashes = (hash(look.sha256) for p in opened if (look := facts.looks[p]))
        groups = _groups(np.fromiter(hashes, np.int64, len(opened)))
        count = sum(len(rows) - 1 for rows in groups)
        if count:
            effect = (
                "an image encoder gives them one vector: what belongs to them can't be told apart"
            )
            examples = tuple(f"{opened[rows[0]]} = {opened[rows[1]]}" for rows in groups[:3])
            severity = graded(count / len(opened), warning=0.05)
            unit = "images repeat an earlier one"
            yield Hit(
                name, severity, count, len(opened), unit, effect + facts.some_images, examples
            )


@audit_check("near-duplicate-images", "look at them; leave out what is one picture")
def near_images(facts: Facts) -> Iterator[Hit]:
    """Images of one split or corpus that look alike (perceptual hash and colours)."""
    for name, paths in facts.paths.items():
        opened = [p for p in paths if (look := facts.looks.get(p)) and not look.fault]
        pairs = alike([look for p in opened if (look := facts.looks[p]) is not None])
        later = np.unique(pairs[:, 1])
        if len(later):
            effect = "they may be one picture, scaled or stored anew" + facts.some_images
            examples = tuple(f"{opened[a]} ~ {opened[b]}" for a, b in pairs[:3].tolist())
            severity = graded(len(later) / len(opened), warning=0.1)
            unit = "images look like an earlier one"
            yield Hit(name, severity, len(later), len(opened), unit, effect, examples)


@audit_check("images-across-splits", "split by image, or leave out what is in both")
def leaked_images(facts: Facts) -> Iterator[Hit]:
    """Query images that a split that is trained on has, too: equal, or nearly."""
    for train, test in facts.pairs_of_splits():
        ours, theirs = facts.paths[test.name], facts.paths[train.name]
        known = {facts.image_key(path): path for path in theirs}
        shared = [(path, known[key]) for path in ours if (key := facts.image_key(path)) in known]
        exact = len(shared)
        opened = [
            (path, look)
            for path in (*theirs, *ours)
            if (look := facts.looks.get(path)) is not None and not look.fault
        ]
        border = sum(1 for path in theirs if (look := facts.looks.get(path)) and not look.fault)
        seen = {path for path, _ in shared}
        for a, b in alike([look for _, look in opened]).tolist():
            if a < border <= b and opened[b][0] not in seen:
                seen.add(opened[b][0])
                shared.append((opened[b][0], opened[a][0]))
        if shared:
            images = test.column("image")
            asked = sum(image in seen for image in images)
            effect = (
                f"{asked:,} of {len(test):,} queries of {test.name} show an image of {train.name} ({exact:,} "
                f"images equal, {len(shared) - exact:,} nearly): their image was seen in training"
            )
            examples = tuple(f"{a} ~ {b}" for a, b in shared[:3])
            severity = graded(asked / max(1, len(test)), warning=0.01, error=0.5)
            where = f"{train.name}/{test.name}"
            yield Hit(
                where,
                severity,
                len(shared),
                len(ours),
                f"query images of {test.name}",
                effect + facts.some_images,
                examples,
            )


@audit_check("query-image-in-positive", "ask with another image of the same thing")
def trivial_images(facts: Facts) -> Iterator[Hit]:
    """Queries whose image is the image of their right passage."""
    for split in facts.splits:
        images = split.corpus.table.column("image")
        if images.null_count == len(images) or not split.with_image.any():
            continue
        asked, drawn = some_of(np.flatnonzero(split.with_image & (split.positives > 0)))
        column = split.table.column("image")
        same = []
        for query in asked.tolist():
            key = facts.image_key(column[query].as_py())
            rows = split.right_rows(query)[:20].tolist()
            if any(facts.image_key(images[row].as_py()) == key for row in rows):
                same.append(query)
        if same:
            share = len(same) / len(asked)
            effect = (
                f"comparing pixels finds the right passage of {share:.1%} of these queries: the "
                "score of a retriever that sees the passages' images says nothing of understanding"
            )
            severity = graded(share, warning=0.01)
            examples = tuple(map(split.example, same[:3]))
            yield Hit(
                split.name,
                severity,
                len(same),
                len(asked),
                f"{drawn}judged queries with an image",
                effect,
                examples,
            )
