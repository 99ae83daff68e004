"""A recipe: all that decides what a training run computes."""

from dataclasses import dataclass, field
from typing import Literal

Instructions = Literal["row", "fixed", "none", "unmasked"]
VisionSize = Literal["vit-b", "vit-l", "vit-h", "vit-g"]
TextSize = Literal["small", "medium", "base", "large"]


@dataclass(frozen=True, slots=True)
class Start:
    """Which weights training starts from, and how the model reads queries while it trains.

    Attributes:
        checkpoint: Folder or hub id in the official layout, ``embedded`` for the small assembled model,
            or None: a new model of the sizes below.
        vision: Size of a new model's vision encoder: ``vit-b``, ``vit-l``, ``vit-h``, ``vit-g``; that of
            ``vision_weights`` if None, else ``vit-b``.
        text: Size of its text encoder: ``small``, ``medium``, ``base``, ``large``; likewise that of
            ``text_weights``, else ``base``.
        vision_weights: Folder or hub id of a CLIP whose vision encoder it starts from, or ``clip`` for the
            one that the paper has of the size; random if None.
        text_weights: Of a BERT or ColBERT likewise; ``bert`` for Google's of the size.
        text_rows: False leaves the text's rows out of queries while training (stage 1); the mapping
            network reads the text all the same. The saved checkpoint keeps its own switch.
        image_rows: False leaves the image's rows out of queries while training (stage 0), which then needs
            no images.
        dropout: Of all dropouts that train; the checkpoint's own if None.
        seed: Of weights that nothing is loaded into.
    """

    checkpoint: str | None = None
    vision: VisionSize | None = None
    text: TextSize | None = None
    vision_weights: str | None = None
    text_weights: str | None = None
    text_rows: bool = True
    image_rows: bool = True
    dropout: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """One source's part in the mixture.

    Attributes:
        source: A built source.
        split: Its split.
        edition: Which edition of it; the only one if None.
        weight: Its share of visits, relative to the others' weights; if None for all, its rows times
            ``repeat``.
        repeat: How often an epoch visits each of its rows.
        take: So many of its rows, drawn by the recipe's seed; all if None.
        tasks: Only rows of these tasks (``I2T``, ``Q2T``, ``IQ2T``); all if empty.
        where: Only rows that other columns of the queries choose: ``form=evqa``, or ``form=evqa|okvqa``.
            Of several conditions all hold.
    """

    source: str
    split: str = "train"
    edition: str | None = None
    weight: float | None = None
    repeat: int = 1
    take: int | None = None
    tasks: tuple[str, ...] = ()
    where: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Data:
    """What is read.

    Attributes:
        sources: The mixture.
        instructions: ``row``: each query's own, its rows masked in the query; ``fixed``: one for all;
            ``none``; ``unmasked``: its own, and its rows count.
        passage_tokens: Most tokens of a passage.
        keep_frozen: Whether what frozen parts make of texts and images is computed once and kept on
            disk. For sources of some thousand passages and images.
        shuffle_labels: A control: positives are dealt out to other queries, so that nothing can be
            learned of them.
    """

    sources: tuple[Share, ...] = ()
    instructions: Instructions = "row"
    passage_tokens: int = 512
    keep_frozen: bool = False
    shuffle_labels: bool = False


@dataclass(frozen=True, slots=True)
class Negatives:
    """What a query's positive is told from.

    Attributes:
        uniform: Passages drawn uniformly from the corpus, without the query's positives.
        pool: The corpus that they are drawn from: of the query's ``source``, or the ``mixture``'s.
        mined: How many of the mined file's passages; uniform ones stand in where it has fewer.
        file: The mined file (`m2kr mine`).
        in_batch: Whether the other passages of the batch are negatives, too.
        across_ranks: Whether those of all ranks are.
        groups: Into how many equal parts a batch is cut whose passages don't meet: what several ranks
            without ``across_ranks`` compute, on one.
        skip_right: Whether passages of the batch that are right for a query, too, are left out of its
            negatives. The official code counts them as wrong.
    """

    uniform: int = 1
    pool: Literal["source", "mixture"] = "mixture"
    mined: int = 0
    file: str | None = None
    in_batch: bool = True
    across_ranks: bool = False
    groups: int = 1
    skip_right: bool = True


@dataclass(frozen=True, slots=True)
class Distillation:
    """What is learned from a teacher's scores.

    Attributes:
        kind: ``kl``: the student's distribution over a query's own passages follows the teacher's;
            ``margin_mse``: the difference between positive and negative does.
        file: Scores by query and passage (`m2kr mine` makes it of a run, retriever or re-ranker).
        weight: Of this loss; the contrastive one has 1 - weight.
        temperature: Scores of both are divided by it before the softmax.
    """

    kind: Literal["none", "kl", "margin_mse"] = "none"
    file: str | None = None
    weight: float = 0.5
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Optimiser:
    """AdamW and its schedule.

    Attributes:
        lr: Peak learning rate.
        mapping_lr: Of the MLP and the mapping network; ``lr`` if None.
        weight_decay: Not on biases and layer norms.
        betas: Of AdamW.
        eps: Of AdamW.
        schedule: After the warm-up: ``constant``, ``linear`` to 0, or ``cosine`` to 0.
        warmup: Steps from 0 to the peak.
        clip: Largest norm of all gradients; no limit if None.
    """

    lr: float = 1e-5
    mapping_lr: float | None = None
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    clip: float | None = None


@dataclass(frozen=True, slots=True)
class Steps:
    """How long and in what pieces.

    Attributes:
        steps: Optimiser steps.
        batch: Queries a rank and micro-batch.
        accumulate: Micro-batches a step and rank; each has its own in-batch negatives.
        chunk: Queries that are encoded at once; below ``batch`` the gradient is that of the whole batch
            all the same (GradCache).
        precision: ``float32``, ``bfloat16`` (autocast) or ``float64``.
        checkpoint_activations: Whether layers are computed again in the backward pass, to save memory.
        parallel: Under torchrun: ``ddp`` or ``fsdp``.
        compile: Whether `torch.compile` makes faster code first.
        seed: Of the order of rows, negatives and dropout.
    """

    steps: int = 1000
    batch: int = 8
    accumulate: int = 1
    chunk: int | None = None
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    checkpoint_activations: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Validation:
    """Retrieval while training.

    Attributes:
        sources: Whose queries; their splits are ``valid`` unless said otherwise.
        every: Steps between two validations; never if 0.
        queries: So many queries of each source, drawn by a fixed seed; all if None.
        passages: Pool of the queries' positives and so many others; the whole one if None.
        metric: What the best checkpoint is chosen by; ``loss`` for the training loss.
        loss_queries: Queries of each source over which the training loss is computed as well.
    """

    sources: tuple[Share, ...] = ()
    every: int = 0
    queries: int | None = 1000
    passages: int | None = None
    metric: str = "hit_rate@5"
    loss_queries: int = 0


@dataclass(frozen=True, slots=True)
class Saving:
    """What is kept.

    Attributes:
        every: Steps between two checkpoints; if 0, at validations and the end only.
        keep: How many of them stay, the best by validation besides.
        trackers: Where the log is shown besides: ``tensorboard``, ``wandb``, ``trackio``.
    """

    every: int = 0
    keep: int = 2
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training run.

    Attributes:
        name: In the names of folders and tables.
        stage: ``0``, ``1``, ``2``, ``3`` or ``fine-tuning``, for people.
        start: Weights and model.
        trained: Parts whose parameters change: ``text_encoder``, ``text_linear``, ``vision_projection``
            (the MLP), ``mapping`` (the transformer mapping network), ``vision_encoder``.
        text_layers: Only so many last layers of ``text_encoder``; all, embeddings included, if None.
        data: What is read.
        negatives: What positives are told from.
        distillation: A teacher.
        optimiser: How weights change.
        steps: How long.
        validation: What is looked at meanwhile.
        saving: What is kept.
    """

    name: str
    stage: str = ""
    start: Start = field(default_factory=Start)
    trained: tuple[str, ...] = ("text_encoder", "text_linear", "vision_projection", "mapping")
    text_layers: int | None = None
    data: Data = field(default_factory=Data)
    negatives: Negatives = field(default_factory=Negatives)
    distillation: Distillation = field(default_factory=Distillation)
    optimiser: Optimiser = field(default_factory=Optimiser)
    steps: Steps = field(default_factory=Steps)
    validation: Validation = field(default_factory=Validation)
    saving: Saving = field(default_factory=Saving)
