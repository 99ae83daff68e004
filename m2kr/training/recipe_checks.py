"""What a recipe may not say: values out of range, and settings that contradict each other."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from m2kr.errors import M2KRError
from m2kr.training.recipe import Recipe, Share
from m2kr.training.recipe_values import Origin
from m2kr.training.training_task import LoopRecipe

PARTS = ("text_encoder", "text_linear", "vision_projection", "mapping", "vision_encoder")
TASKS = ("I2T", "Q2T", "IQ2T")
_LARGEST = 2**63 - 1


class Bounds(NamedTuple):
    """Bounds of a number; the lower one is excluded where ``above``."""

    least: float
    most: float = _LARGEST
    above: bool = False
    below: bool = False

    def words(self) -> str:
        """For people."""
        low = f"more than {self.least:g}" if self.above else f"{self.least:g} or more"
        if self.most == _LARGEST:
            return f"a number, {low}"
        return f"a number, {low}, and {'less than' if self.below else 'at most'} {self.most:,g}"

    def holds(self, value: float) -> bool:
        """Whether a number is inside."""
        if value < self.least or value > self.most:
            return False
        return not (self.above and value == self.least) and not (self.below and value == self.most)


COUNT, NONE_OR_MORE, POSITIVE = Bounds(1), Bounds(0), Bounds(0, above=True)
#: Of what all recipes of the loop have.
COMMON_RANGES = {
    "optimiser.lr": Bounds(0, 1000, above=True),
    "optimiser.mapping_lr": Bounds(0, 1000, above=True),
    "optimiser.weight_decay": NONE_OR_MORE,
    "optimiser.betas": Bounds(0, 1, below=True),
    "optimiser.eps": POSITIVE,
    "optimiser.warmup": NONE_OR_MORE,
    "optimiser.clip": POSITIVE,
    "steps.steps": COUNT,
    "steps.batch": COUNT,
    "steps.accumulate": COUNT,
    "steps.chunk": COUNT,
    "steps.seed": NONE_OR_MORE,
    "validation.every": NONE_OR_MORE,
    "saving.every": NONE_OR_MORE,
    "saving.keep": COUNT,
}
_RANGES = COMMON_RANGES | {
    "start.dropout": Bounds(0, 1, below=True),
    "start.seed": NONE_OR_MORE,
    "text_layers": COUNT,
    "data.passage_tokens": Bounds(3, 131_072),
    "negatives.uniform": NONE_OR_MORE,
    "negatives.mined": NONE_OR_MORE,
    "negatives.groups": COUNT,
    "distillation.weight": Bounds(0, 1, above=True),
    "distillation.temperature": POSITIVE,
    "validation.queries": COUNT,
    "validation.passages": COUNT,
    "validation.loss_queries": NONE_OR_MORE,
}
_SHARE_RANGES = {"weight": POSITIVE, "repeat": COUNT, "take": COUNT}


def check_recipe(recipe: Recipe, origin: Origin | None = None) -> None:
    """Refuses a recipe that can't be run as it says.

    Args:
        recipe: To be looked at.
        origin: Where its values are from, for the error.

    Raises:
        InputError: A value is out of range, or two contradict each other; the message names the keys.
        UsageError: Likewise where one of them is from ``--set``.
    """
    for error in _faults(recipe, origin or Origin(recipe.name)):
        raise error


def _faults(recipe: Recipe, origin: Origin) -> Iterator[M2KRError]:
    yield from common_faults(recipe, _RANGES, origin)
    yield from _names(recipe, origin)
    for path, shares in (
        ("data.sources", recipe.data.sources),
        ("validation.sources", recipe.validation.sources),
    ):
        yield from _shares(shares, path, origin)
    yield from _mixture(recipe, origin)
    yield from _start(recipe, origin)
    yield from _negatives(recipe, origin)
    yield from _distillation(recipe, origin)
    yield from _steps(recipe, origin)


def common_faults(
    recipe: LoopRecipe, ranges: Mapping[str, Bounds], origin: Origin
) -> Iterator[M2KRError]:
    """What may be wrong with any recipe: numbers, the name, the warm-up.

    Args:
        recipe: To be looked at.
        ranges: Bounds by dotted key.
        origin: Where its values are from.
    """
    for path, bounds in ranges.items():
        value: object = recipe
        for name in path.split("."):
            value = getattr(value, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not bounds.holds(number):
                yield origin.error(f"{path} is {number:,}", path, expected=bounds.words())
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", recipe.name):
        yield origin.error(
            f"name is {recipe.name!r:.100}",
            "name",
            expected="letters, digits, '.', '_' and '-': folders are called so",
        )
    steps, warmup = recipe.steps.steps, recipe.optimiser.warmup
    if warmup > steps:
        yield origin.error(
            f"optimiser.warmup {warmup:,} is longer than the training, steps.steps {steps:,}",
            "optimiser.warmup",
            "steps.steps",
            expected=f"at most {steps:,} steps to the peak: --set optimiser.warmup=0",
        )


def _names(recipe: Recipe, origin: Origin) -> Iterator[M2KRError]:
    if not recipe.trained:
        yield origin.error(
            "trained is empty: nothing would change", "trained", expected=", ".join(PARTS)
        )
    for part in recipe.trained:
        if part not in PARTS:
            near = difflib.get_close_matches(part, PARTS, n=1)
            yield origin.error(
                f"there is no part '{part}' to be trained",
                "trained",
                expected=", ".join(PARTS),
                fix=f"did you mean '{near[0]}'?" if near else None,
            )
    if len(set(recipe.trained)) < len(recipe.trained):
        yield origin.error("trained names a part twice", "trained")
    if recipe.text_layers is not None and "text_encoder" not in recipe.trained:
        yield origin.error(
            f"text_layers is {recipe.text_layers}, but text_encoder is not trained",
            "text_layers",
            "trained",
            expected="text_layers: null, or text_encoder in trained",
        )
    if recipe.optimiser.mapping_lr is not None and not {"mapping", "vision_projection"} & set(
        recipe.trained
    ):
        yield origin.error(
            "optimiser.mapping_lr is given, but neither mapping nor vision_projection is trained",
            "optimiser.mapping_lr",
            "trained",
            expected="optimiser.mapping_lr: null",
        )
    yield from _metric(recipe, origin)


def _metric(recipe: Recipe, origin: Origin) -> Iterator[M2KRError]:
    validation = recipe.validation
    if validation.metric == "loss":
        if validation.every and not validation.loss_queries:
            yield origin.error(
                "validation.metric is loss, but validation.loss_queries is 0",
                "validation.metric",
                "validation.loss_queries",
                expected="how many queries of each source it is computed over",
            )
        return
    from m2kr.evaluation.metrics import parse

    try:
        parse(validation.metric)
    except M2KRError as error:
        yield origin.error(
            f"validation.metric: {error.what}",
            "validation.metric",
            expected="loss, or such as hit_rate@5, ndcg@10, pseudo_recall@5",
            fix=error.fix and error.fix.replace("--metrics ", "validation.metric: "),
        )


def _shares(shares: Sequence[Share], path: str, origin: Origin) -> Iterator[M2KRError]:
    seen: dict[tuple[object, ...], int] = {}
    for number, share in enumerate(shares):
        inner = f"{path}[{number}]"
        for name in ("source", "split"):
            if not getattr(share, name):
                yield origin.error(f"{inner}.{name} is empty", f"{inner}.{name}")
        for name, bounds in _SHARE_RANGES.items():
            value = getattr(share, name)
            if value is not None and not bounds.holds(value):
                yield origin.error(
                    f"{inner}.{name} ({share.source}) is {value:,}",
                    f"{inner}.{name}",
                    expected=bounds.words(),
                )
        for task in share.tasks:
            if task not in TASKS:
                yield origin.error(
                    f"{inner}.tasks ({share.source}) holds '{task}'",
                    f"{inner}.tasks",
                    expected=", ".join(TASKS),
                )
        same = (
            *(share.source.lower(), share.edition, share.split),
            *(frozenset(share.tasks), frozenset(share.where)),
        )
        if same in seen:
            yield origin.error(
                f"{path}[{seen[same]}] and [{number}] are the same rows, {share.source} {share.split}",
                inner,
                path,
                expected="each once, with repeat or weight for more of it",
            )
        seen[same] = number


def _mixture(recipe: Recipe, origin: Origin) -> Iterator[M2KRError]:
    shares = recipe.data.sources
    if not shares:
        yield origin.error(
            "data.sources is empty: there is nothing to train on",
            "data.sources",
            expected="built sources, such as --set data.sources=okvqa,evqa",
            fix="m2kr list",
        )
    weighted = [share.weight is not None for share in shares]
    if any(weighted) and not all(weighted):
        lacking = ", ".join(share.source for share in shares if share.weight is None)
        yield origin.error(
            f"some of data.sources have a weight, but {lacking} have none"
            if lacking.count(",")
            else f"some of data.sources have a weight, but {lacking} has none",
            *(f"data.sources[{n}].weight" for n, given in enumerate(weighted) if given),
            "data.sources",
            expected="a weight for each, or for none (then rows x repeat counts)",
        )
    for number, share in enumerate(shares):
        if share.weight is not None and share.repeat != 1:
            yield origin.error(
                f"data.sources[{number}] ({share.source}) has both a weight and repeat",
                f"data.sources[{number}].repeat",
                f"data.sources[{number}].weight",
                expected="one: weight is its share of visits, repeat multiplies its rows",
            )
    text_only = shares and all(set(share.tasks) == {"Q2T"} for share in shares)
    if text_only and not recipe.start.text_rows:
        yield origin.error(
            "start.text_rows is false, but all queries are text only (tasks Q2T): "
            "they would have no row that counts",
            "start.text_rows",
            "data.sources",
            expected="start.text_rows: true, or sources with images",
        )


def _start(recipe: Recipe, origin: Origin) -> Iterator[M2KRError]:
    start = recipe.start
    if start.checkpoint is not None:
        for name in ("vision", "text", "vision_weights", "text_weights"):
            if (value := getattr(start, name)) is not None:
                yield origin.error(
                    f"start.{name} is {value}, but the weights are start.checkpoint's "
                    f"({start.checkpoint})",
                    f"start.{name}",
                    "start.checkpoint",
                    expected=f"start.{name}: null, or start.checkpoint: null for a new model",
                )
    images = {"mapping", "vision_projection", "vision_encoder"} & set(recipe.trained)
    if not start.image_rows and images:
        yield origin.error(
            f"start.image_rows is false, so that {min(images)} has no part in queries, but it is trained",
            "start.image_rows",
            "trained",
            expected="start.image_rows: true, or trained: text_encoder, text_linear",
        )
    if not start.image_rows and not start.text_rows:
        yield origin.error(
            "start.text_rows and start.image_rows are both false: queries would have no rows",
            "start.text_rows",
            "start.image_rows",
            expected="one of them true",
        )
    if not start.text_rows and not images:
        yield origin.error(
            "start.text_rows is false, but nothing that makes image rows is trained",
            "start.text_rows",
            "trained",
            expected="trained: vision_projection, mapping",
        )


def _negatives(recipe: Recipe, origin: Origin) -> Iterator[M2KRError]:
    negatives, steps = recipe.negatives, recipe.steps
    if negatives.mined and negatives.file is None:
        yield origin.error(
            f"negatives.mined is {negatives.mined}, but there is no mined file",
            "negatives.mined",
            expected="negatives.file: FILE.parquet",
            fix="m2kr mine --help",
        )
    if negatives.file is not None and not negatives.mined:
        yield origin.error(
            f"negatives.file is {negatives.file}, but negatives.mined is 0",
            "negatives.file",
            "negatives.mined",
            expected="how many of its passages a query takes, or negatives.file: null",
        )
    if negatives.across_ranks and not negatives.in_batch:
        yield origin.error(
            "negatives.across_ranks needs in_batch: other ranks' passages are of their batches",
            "negatives.across_ranks",
            "negatives.in_batch",
            expected="negatives.in_batch: true, or across_ranks: false",
        )
    if negatives.groups > 1:
        if steps.batch % negatives.groups:
            yield origin.error(
                f"steps.batch {steps.batch} is no multiple of negatives.groups {negatives.groups}",
                "negatives.groups",
                "steps.batch",
                expected="groups of equal size",
            )
        for name, wrong in (
            ("in_batch: false", not negatives.in_batch),
            ("across_ranks: true", negatives.across_ranks),
        ):
            if wrong:
                yield origin.error(
                    f"negatives.groups {negatives.groups} cuts a batch whose passages are each "
                    f"other's negatives, which contradicts {name}",
                    "negatives.groups",
                    f"negatives.{name.split(':')[0]}",
                    expected="negatives.groups: 1",
                )
    own = negatives.uniform + negatives.mined
    if not own and not negatives.in_batch:
        yield origin.error(
            "positives would be told from nothing: uniform and mined are 0, in_batch is false",
            "negatives.uniform",
            "negatives.mined",
            "negatives.in_batch",
            expected="negatives.uniform: 1, say",
        )
    if not own and steps.batch == negatives.groups and not negatives.across_ranks:
        yield origin.error(
            "positives would be told from nothing: each query is alone in its batch or group, "
            "and has no negatives of its own",
            "steps.batch",
            "negatives.groups",
            "negatives.uniform",
            expected="negatives.uniform: 1, say, or a larger batch",
        )


def _distillation(recipe: Recipe, origin: Origin) -> Iterator[M2KRError]:
    distillation, negatives = recipe.distillation, recipe.negatives
    if distillation.kind == "none":
        if distillation.file is not None:
            yield origin.error(
                f"distillation.file is {distillation.file}, but distillation.kind is none",
                "distillation.file",
                "distillation.kind",
                expected="kind: kl or margin_mse, or file: null",
            )
        return
    if distillation.file is None:
        yield origin.error(
            f"distillation.kind is {distillation.kind}, but there is no file of a teacher's scores",
            "distillation.kind",
            expected="distillation.file: FILE.parquet",
            fix="m2kr mine --help",
        )
    if not negatives.uniform + negatives.mined:
        yield origin.error(
            f"distillation ({distillation.kind}) compares a query's own passages, but it has only "
            "its positive: uniform and mined are 0",
            "distillation.kind",
            "negatives.uniform",
            "negatives.mined",
            expected="negatives.mined: 4, say, with negatives.file",
        )


def _steps(recipe: Recipe, origin: Origin) -> Iterator[M2KRError]:
    steps = recipe.steps
    if steps.chunk is not None and steps.chunk > steps.batch:
        yield origin.error(
            f"steps.chunk {steps.chunk} is more than steps.batch {steps.batch}",
            "steps.chunk",
            "steps.batch",
            expected="a part of the batch, or null",
        )
    if recipe.validation.every and not recipe.validation.sources:
        yield origin.error(
            f"validation.every is {recipe.validation.every}, but validation.sources is empty",
            "validation.every",
            "validation.sources",
            expected="validation.sources: [okvqa], say, or validation.every: 0",
        )
