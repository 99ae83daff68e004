"""A target reproduced, step by step: weights, data, images, rankings, verdicts.

What is done is known by its files alone: a built source, images in its store, weights in the hub's cache,
encoded rows and indexes below the data root, results in the target's folder. So a run that was killed is
gone on with by the same call, and one that is complete computes nothing.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from m2kr import atomic
from m2kr._version import __version__
from m2kr.api import evaluate
from m2kr.data.load import Split, load
from m2kr.errors import CheckError, InputError, M2KRError, MissingError
from m2kr.evaluation.result import Result, file_word, versions
from m2kr.progress import SILENT, Progress
from m2kr.reproduce.plan import built_edition, resolve_sources
from m2kr.reproduce.targets import Target
from m2kr.reproduce.verdict import DIFFERS, NOT_RUN, TOLERANCE, ComparedFigure, compare_figure
from m2kr.retrieval.cache import encoder_identity
from m2kr.retrieval.encoder import EncoderRetriever
from m2kr.retrieval.own_code import json_settings, json_values, own_code
from m2kr.retrieval.protocol import Retriever, modalities_of
from m2kr.retrieval.replay import RunRetriever
from m2kr.retrieval.search_split import check_search, declared_modalities, image_fingerprint
from m2kr.retrievers import create
from m2kr.search.config import Mode, SearchConfig
from m2kr.sources import RELEASED

logger = logging.getLogger("m2kr.reproduce")

FORMAT = "m2kr-reproduction-1"
_NO_LIMIT = 1e6  # hours: who reproduces has been told of them (--plan)
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Reproduction:
    """What became of a target.

    Attributes:
        target: What was to be reproduced.
        comparisons: One a figure.
        failed: Why a source could not be run, by name.
        made_by: The retriever's settings with its weights' hash, and the code's versions.
        results: File names of the results by source and search mode.
        folder: Where results and this lie.
    """

    target: Target
    comparisons: Sequence[ComparedFigure]
    failed: Mapping[str, M2KRError]
    made_by: Mapping[str, Any]
    results: Mapping[str, Mapping[str, str]]
    folder: Path

    @property
    def exit_code(self) -> int:
        """0 if every figure was reproduced; of what could not be run, its error's; else 1."""
        if self.failed:
            return max(error.exit_code for error in self.failed.values())
        return int(any(one.verdict in (DIFFERS, NOT_RUN) for one in self.comparisons))

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "format": FORMAT,
            "target": self.target.name,
            "title": self.target.title,
            "retriever": self.target.retriever,
            "settings": dict(self.target.settings),
            "search": list(self.target.search),
            "k": self.target.k,
            "split": self.target.split,
            "tolerance": TOLERANCE,
            "figures": [one.as_dict() for one in self.comparisons],
            "made_by": dict(self.made_by),
            "results": {source: dict(files) for source, files in self.results.items()},
            "failed": {source: error.as_dict() for source, error in self.failed.items()},
            "versions": versions(),
        }


@dataclass(frozen=True)
class Reproducer:
    """Reproduces targets on one machine.

    Attributes:
        root: The data root.
        out: Folder of the targets' folders.
        images: Image roots searched first.
        overrides: Settings of the retriever in place of a target's.
        tell: Told of each step in a sentence.
        progress: Told of what takes long.
    """

    root: Path
    out: Path
    images: Sequence[Path] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    tell: Tell = logger.info
    progress: Progress = SILENT

    def reproduce(self, target: Target) -> Reproduction:
        """Does what is not done yet of a target, and compares; writes ``reproduction.json`` and ``.md``.

        A source that can't be run is told of, and the others are run.

        Raises:
            UsageError: there is no source of a name, or no such search of the retriever.
            MissingError: the retriever needs a package that isn't installed, or has no such weights.
            UpstreamError: the weights can't be fetched.
            M2KRError: the machine's own troubles, such as a full disk.
        """
        target = resolve_sources(target, self.root)
        folder = self.out / file_word(target.name)
        folder.mkdir(parents=True, exist_ok=True)
        if not atomic.writable(folder):
            raise M2KRError("results can't be written here", where=str(folder), fix="--out FOLDER")
        # Before anything is fetched: a package may be missing.
        overrides = {
            key.removeprefix(f"{target.retriever}."): value for key, value in self.overrides.items()
        }
        retriever = create(target.retriever, {**target.settings, **overrides})
        for mode in target.search:
            check_search(retriever, SearchConfig(mode=mode))
        self.tell(f"{target.title}: the retriever {retriever.name} and its weights")
        settings = json_settings(retriever)  # fetches and hashes them
        code = _made_by(retriever)
        comparisons: list[ComparedFigure] = []
        failed: dict[str, M2KRError] = {}
        files: dict[str, dict[str, str]] = {}
        for source in target.sources:
            try:
                split = self._data(target, source)
                split = self._images(split, retriever)
                results: dict[str, Result] = {
                    mode: self._result(split, retriever, target, mode, folder, code)
                    for mode in target.search
                }
            except M2KRError as error:
                if type(error) is M2KRError:
                    raise
                self.tell(f"{source} is not run: {error.what}")
                failed[source] = error
                comparisons += [
                    ComparedFigure(one, notes=(error.what,)) for one in target.of(source)
                ]
                continue
            files[source] = {mode: f"{result.name}.json" for mode, result in results.items()}
            comparisons += [
                compare_figure(figure, target, results, split.manifest, overrides)
                for figure in target.of(source)
            ]
        done = Reproduction(
            target, comparisons, failed, {"settings": settings, **code}, files, folder
        )
        atomic.write_json(folder / "reproduction.json", done.as_dict())
        from m2kr.reproduce.table import as_markdown

        atomic.write_text(folder / "reproduction.md", as_markdown(done))
        return done

    def _data(self, target: Target, source: str) -> Split:
        """The split, from the release where it isn't built yet.

        Raises:
            MissingError: it isn't built, and not in the release.
            UsageError: several editions have it.
            UpstreamError: the release can't be fetched.
        """
        edition = built_edition(target, source, self.root)
        if edition is None and source in RELEASED and target.edition is None:
            self._build(target, source)
            edition = built_edition(target, source, self.root)
        if edition is None:
            raise MissingError(
                f"{source} has no built split '{target.split}'",
                where=str(self.root / (target.edition or "")),
                fix=f"m2kr build {source} --plan, or m2kr import --help",
            )
        return load(source, target.split, edition=edition, data=self.root, images=self.images)

    def _build(self, target: Target, source: str) -> None:
        from m2kr.building.build import build
        from m2kr.building.release.routes import builder_for

        self.tell(f"{source}: the release's {target.split} split")
        given = dict(target.release)
        where = given.pop("from", None)
        builder = builder_for(
            source, route="release", folder=None if where is None else Path(where), **given
        )
        build(builder, self.root, splits=[target.split], progress=self.progress)

    def _images(self, split: Split, retriever: Retriever) -> Split:
        """The split with all its images, fetched where they are nowhere yet.

        Raises:
            MissingError: some can't be had.
        """
        from m2kr.building.images.coverage import absent_images, required_images

        reads = modalities_of(retriever)
        if "image" not in reads.query | reads.passage:
            return split
        passages = "image" in reads.passage
        if not absent_images([required_images(split, passages=passages)], split.images):
            return split
        from m2kr.building.images.from_archives import FetchOptions
        from m2kr.building.images.gather import ImageRequest, gather_images
        from m2kr.building.registry import builder
        from m2kr.sources import builder_modules

        self.tell(f"{split.source}: images")
        known = split.source in builder_modules()
        archives = tuple(builder(split.source).image_archives) if known else ()
        names = split.manifest["source"].get("image_names", ())
        report = gather_images(
            ImageRequest([split], archives, passages=passages),
            FetchOptions(self.root, names=names, whole=True),
            progress=self.progress,
        )
        (coverage,) = report.coverage.splits
        if coverage.ok < coverage.needed:
            for error in report.failed.values():
                raise error
            raise MissingError(
                f"{coverage.needed - coverage.ok:,} of {coverage.needed:,} images can't be had",
                where=split.label,
                expected="all of them: without, no published figure can be reproduced",
                fix=f"m2kr images {split.source} --split {split.split} --images FOLDER, if you have "
                f"them; which, says {report.coverage.table}",
            )
        return load(
            split.source, split.split, edition=split.edition, data=self.root, images=self.images
        )

    def _result(
        self,
        split: Split,
        retriever: Retriever,
        target: Target,
        mode: Mode,
        folder: Path,
        code: Mapping[str, Any],
    ) -> Result:
        """The result by one search: the one that is here and made by the same code, or a new one."""
        metrics = list(dict.fromkeys(figure.metric for figure in target.of(split.source)))
        for path in sorted(folder.glob(f"{split.source}.{split.split}.*.json")):
            try:
                result = Result.load(path)
            except (InputError, CheckError, MissingError):
                continue
            same_code = code["keys"] is not None and result.experiment.get("made_by") == code
            if same_code and _is_of(result, split, retriever, target, mode, metrics):
                self.tell(f"{split.source}: {mode} search is done: {path.name}")
                return result
        self.tell(f"{split.source}: encode, and {mode} search")
        late = isinstance(retriever, EncoderRetriever) or mode != "exact"
        (result,) = evaluate(
            split,
            retriever,
            k=target.k,
            metrics=["default", *metrics],  # whoever asks for others later need not search again
            search=SearchConfig(mode=mode, max_hours=_NO_LIMIT) if late else None,
            cache=True,
            progress=self.progress,
        )
        result = replace(result, experiment={**result.experiment, "made_by": code})
        result.save(folder)
        return result


def _made_by(retriever: Retriever) -> dict[str, Any]:
    """What decides a retriever's rankings beside its settings: code, weights and files.

    ``keys`` is None for one that doesn't say: a run, whose file may be another tomorrow, and one's own
    retriever without a ``cache_key``. Its results are not taken for done.
    """
    kind = type(retriever)
    keys: list[Any] | None = [] if kind.__module__.startswith("m2kr.") else None
    if isinstance(retriever, EncoderRetriever):
        with own_code(retriever, f"{kind.__name__}.cache_key"):
            given = [retriever.cache_key("query"), retriever.cache_key("document")]
        told = [json_values(key, "cache_key", retriever) for key in given if key is not None]
        keys = told if len(told) == len(given) else None
    elif isinstance(retriever, RunRetriever):
        keys = None
    return {"m2kr": __version__, "encoder": encoder_identity(kind), "keys": keys}


def _is_of(
    result: Result,
    split: Split,
    retriever: Retriever,
    target: Target,
    mode: Mode,
    metrics: Sequence[str],
) -> bool:
    """Whether a result is what an evaluation would give now, by the same code."""
    return (
        result.fingerprints.get("eval") == split.fingerprints["eval"]
        and result.retriever["name"] == retriever.name
        and result.retriever["settings"] == json_settings(retriever)
        and result.search_mode == mode
        and result.k == target.k
        and not set(metrics) - set(result.metrics)
        and result.fingerprints.get("images")
        == image_fingerprint(split, declared_modalities(retriever))
    )
