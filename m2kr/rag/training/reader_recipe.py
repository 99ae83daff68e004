"""A reader's recipe: all that decides what training its adapter computes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from m2kr.errors import M2KRError
from m2kr.training.recipe import Optimiser, Saving, Steps
from m2kr.training.recipe_checks import (
    COMMON_RANGES,
    COUNT,
    NONE_OR_MORE,
    POSITIVE,
    Bounds,
    common_faults,
)
from m2kr.training.recipe_values import Origin


@dataclass(frozen=True, slots=True)
class ReaderStart:
    """The model that is adapted; its own weights never change.

    Attributes:
        model: Folder or hub id: a BLIP-2 with a T5; or a sequence-to-sequence or causal language model,
            which is shown no images.
        revision: Of a hub id.
    """

    model: str = "Salesforce/blip2-flan-t5-xl"
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank updates: a layer's output gets ``alpha / r * B A dropout(x)`` more.

    Attributes:
        r: Rank.
        alpha: Its scale times ``r``.
        dropout: Of what A reads.
        targets: Linear layers by the last part of their names: ``q`` and ``v`` of a T5, ``q_proj`` and
            ``v_proj`` of most causal models.
        seed: Of A; B begins as zeros, so that training begins with the model as it is.
    """

    r: int = 8
    alpha: float = 32
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q", "v")
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ReaderData:
    """The questions and what was retrieved for them.

    Attributes:
        source: A built source whose queries have answers.
        split: Its split.
        edition: Which edition of it; the only one if None.
        take: So many of its questions, drawn by ``steps.seed``; all if None.
        run: A run or result for that split (`m2kr eval --split train`); None trains to answer without
            passages.
        top: Passages of a question that are drawn from: the run's first ones.
        sampled: How many of them a visit draws; each is an input of its own.
        input_tokens: Most tokens of an input; the passage is cut to it, the image's tokens come on top.
        target_tokens: Most tokens of an answer, its end included.
    """

    source: str = ""
    split: str = "train"
    edition: str | None = None
    take: int | None = None
    run: str | None = None
    top: int = 5
    sampled: int = 3
    input_tokens: int = 512
    target_tokens: int = 10


@dataclass(frozen=True, slots=True)
class ReaderLoss:
    """What is minimised, over the tokens of the targets; padding never counts.

    Attributes:
        kind: ``tokens``: the mean negative log likelihood of the tokens of all of a question's inputs, then
            the mean over questions. ``marginal``: minus log sum_k p(passage k) p(target | passage k), with
            one target for all of a question's inputs; then the mean over questions.
        temperature: Of the marginal: p(passage) is the softmax of the run's scores, divided by it, over
            the passages that were drawn.
    """

    kind: Literal["tokens", "marginal"] = "tokens"
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class ReaderValidation:
    """Answering while training, greedily, from the first ``data.top`` passages of the run.

    Attributes:
        every: Steps between two validations; never if 0.
        split: Whose questions; None holds some of ``data.split``'s out of the training.
        run: A run or result for ``split``.
        questions: So many of them, drawn by a fixed seed.
        scorer: How answers are judged, as ``m2kr score-answers --scorer`` names it; the source's own if
            None.
        metric: What the best checkpoint is chosen by: ``score``, or ``loss`` over the same questions.
        patience: Validations without a better one after which training ends early; never if None. The
            best checkpoint is the run's model either way.
    """

    every: int = 0
    split: str | None = None
    run: str | None = None
    questions: int = 500
    scorer: str | None = None
    metric: Literal["score", "loss"] = "score"
    patience: int | None = None


@dataclass(frozen=True, slots=True)
class ReaderRecipe:
    """A training run of a reader.

    Attributes:
        name: In the names of folders and tables.
        reader: The model that is adapted.
        lora: The adapter.
        data: What is read.
        loss: What is minimised.
        optimiser: How weights change.
        steps: How long; ``batch`` counts questions. ``chunk``, ``compile`` and ``fsdp`` are not for readers.
        validation: What is looked at meanwhile.
        saving: What is kept.
    """

    name: str
    reader: ReaderStart = field(default_factory=ReaderStart)
    lora: Lora = field(default_factory=Lora)
    data: ReaderData = field(default_factory=ReaderData)
    loss: ReaderLoss = field(default_factory=ReaderLoss)
    optimiser: Optimiser = field(default_factory=Optimiser)
    steps: Steps = field(default_factory=Steps)
    validation: ReaderValidation = field(default_factory=ReaderValidation)
    saving: Saving = field(default_factory=Saving)


_RANGES = COMMON_RANGES | {
    "lora.r": COUNT,
    "lora.alpha": POSITIVE,
    "lora.dropout": Bounds(0, 1, below=True),
    "lora.seed": NONE_OR_MORE,
    "data.take": COUNT,
    "data.top": COUNT,
    "data.sampled": COUNT,
    "data.input_tokens": Bounds(8, 131_072),
    "data.target_tokens": Bounds(2, 4096),
    "loss.temperature": POSITIVE,
    "validation.questions": COUNT,
    "validation.patience": COUNT,
}


def check_reader_recipe(recipe: ReaderRecipe, origin: Origin | None = None) -> None:
    """Refuses a recipe that can't be run as it says.

    Args:
        recipe: To be looked at.
        origin: Where its values are from, for the error.

    Raises:
        InputError: A value is out of range, or two contradict each other; the message names the keys.
        UsageError: Likewise where one of them is from ``--set``.
    """
    origin = origin or Origin(recipe.name)
    for error in (*common_faults(recipe, _RANGES, origin), *_faults(recipe, origin)):
        raise error


def _faults(recipe: ReaderRecipe, origin: Origin) -> Iterator[M2KRError]:
    data, looks, steps = recipe.data, recipe.validation, recipe.steps
    if not data.source:
        yield origin.error(
            "data.source is empty: there is nothing to train on",
            "data.source",
            expected="a built source whose questions have answers, such as okvqa",
            fix="m2kr list",
        )
    if not recipe.lora.targets or "" in recipe.lora.targets:
        yield origin.error(
            "lora.targets names no layer", "lora.targets", expected="such as q,v or q_proj,v_proj"
        )
    if data.run is not None and data.sampled > data.top:
        yield origin.error(
            f"data.sampled is {data.sampled}, but only the first data.top {data.top} are drawn from",
            "data.sampled",
            "data.top",
            expected="at most data.top",
        )
    if data.run is None and recipe.loss.kind == "marginal":
        yield origin.error(
            "loss.kind is marginal, but without data.run there are no passages to sum over",
            "loss.kind",
            "data.run",
            expected="data.run: a run for the split, or loss.kind: tokens",
        )
    if looks.split is None and looks.run is not None:
        yield origin.error(
            "validation.run is given, but without validation.split the questions held out of training "
            "have data.run's passages",
            "validation.run",
            "validation.split",
            expected="validation.split: valid, say, or validation.run: null",
        )
    if looks.every and looks.split is not None and (looks.run is None) != (data.run is None):
        yield origin.error(
            "training and validation differ in whether passages are read: one of data.run and "
            "validation.run is missing",
            "validation.run",
            "validation.split",
            "data.run",
            expected=f"a run for {data.source} {looks.split}: m2kr eval {data.source} --split "
            f"{looks.split}",
        )
    if looks.every and looks.split == data.split:
        yield origin.error(
            f"validation.split is {looks.split}, which is trained on",
            "validation.split",
            expected="another split, or null: some of its questions are held out of training",
        )
    for key, wrong, right in (
        ("steps.chunk", steps.chunk is not None, "null; accumulate spreads a step's questions"),
        ("steps.compile", steps.compile, "false"),
        ("steps.parallel", steps.parallel == "fsdp", "ddp: an adapter is small"),
        ("optimiser.mapping_lr", recipe.optimiser.mapping_lr is not None, "null"),
    ):
        if wrong:
            yield origin.error(f"{key} is not for readers", key, expected=right)
