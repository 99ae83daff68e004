"""What the frozen parts of a model make of a mixture's images and texts, computed once and kept.

Images: features of the vision network, where it isn't trained. Texts: states after the last frozen layer
of the text encoder, of every query that is visited and every passage of the pools. Both are the same
whatever batch meets them, so training goes on bit for bit as if it hadn't been interrupted.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from m2kr.concurrency import chunks, spread
from m2kr.errors import UsageError
from m2kr.preflmr.encode.batching import RowBatch, TokenRow
from m2kr.preflmr.model.encoders import VisionFeatures
from m2kr.preflmr.model.image_features import facts
from m2kr.progress import SILENT, Progress
from m2kr.training.batch import FrozenText
from m2kr.training.kept_rows import KeptRows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from m2kr.preflmr import PreFLMR
    from m2kr.preflmr.model.encoders import BertEncoder
    from m2kr.training.batch import Drawn, Visit
    from m2kr.training.mixture import Mixture
    from m2kr.training.model_inputs import ModelInputs
    from m2kr.training.recipe import Recipe

    TokensAt = Callable[[Sequence[tuple[int, int]]], list[TokenRow]]
    Tokens = Callable[[Sequence[int]], list[TokenRow]]

FORMAT = "m2kr-frozen-1"
#: Most bytes that a mixture may keep.
LIMIT = 20e9
_SAMPLE = 1000  # texts that tell how long all are
_READ = 1000  # texts tokenised at a time
_BUDGET = 4096  # tokens of a batch
_TOGETHER, _TOGETHER_ACCELERATED = 2, 32  # images of a batch
# What decides a text encoder's states besides its weights.
_SETTINGS = ("num_attention_heads", "hidden_act", "layer_norm_eps", "pad_token_id")


def frozen_layer(recipe: "Recipe", layers: int) -> int | None:
    """How many first layers of a text encoder of so many stay as they are; None if nothing does."""
    if "text_encoder" not in recipe.trained:
        return layers
    if recipe.text_layers is None or recipe.text_layers >= layers:
        return None
    return layers - recipe.text_layers


class FrozenTexts:
    """States of some texts after a text encoder's first layers.

    Args:
        cache: Folder of what is kept.
        encoder: The text encoder.
        layer: How many of its layers.
        count: Number of texts.
        tokens: Gives those at some places.
        width: Columns that a text of these tokens is padded to.
        pad: Fills them.
        progress: Told of texts made.
        name: What texts they are.

    Attributes:
        hidden: Width of a state.
    """

    def __init__(
        self,
        cache: "Path",
        encoder: "BertEncoder",
        layer: int,
        count: int,
        tokens: "Tokens",
        width: Callable[[TokenRow], int],
        pad: int,
        *,
        progress: Progress = SILENT,
        name: str = "texts",
    ) -> None:
        self._encoder, self.layer, self._tokens = encoder, layer, tokens
        self._width, self._pad = width, pad
        bert: Any = encoder.bert_model.config
        self.hidden = int(bert.hidden_size)
        lengths, digest = [], hashlib.sha256()
        for rows in map(tokens, chunks(range(count), _READ)):
            for row in rows:
                lengths.append(len(row.ids))
                digest.update(len(row.ids).to_bytes(8, "little"))
                digest.update(row.ids.tobytes() + row.attended.tobytes())
        key = {
            "format": FORMAT,
            "tokens": digest.hexdigest(),
            "weights": _weights(encoder, layer),
            "layer": layer,
            "settings": [repr(getattr(bert, name)) for name in _SETTINGS],
            "dtype": str(next(encoder.parameters()).dtype),
        }
        self._kept = KeptRows(
            cache,
            key,
            np.array(lengths, np.int64),
            self.hidden,
            self._make,
            progress=progress,
            name=name,
        )

    def __getitem__(self, text: int) -> "NDArray[np.float16]":
        """States of a text, (tokens x hidden)."""
        return self._kept[text]

    def _make(self, items: range) -> "list[NDArray[np.floating]]":
        """In batches of one width each, the widest first."""
        rows = self._tokens(items)
        by_width: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            by_width.setdefault(self._width(row), []).append(place)
        batches = [
            batch
            for width in sorted(by_width, reverse=True)
            for batch in chunks(by_width[width], max(1, _BUDGET // width))
        ]
        device = next(self._encoder.parameters()).device

        def run(places: list[int]) -> "list[NDArray[np.floating]]":
            batch = RowBatch(self._width(rows[places[0]]), [rows[place] for place in places])
            ids, attended = (each.to(device) for each in batch.tensors(self._pad))
            with torch.no_grad():
                whole = self._encoder(ids, attended).float().cpu().numpy()
            return [whole[n, : len(rows[place].ids)] for n, place in enumerate(places)]

        found: list[NDArray[np.floating]] = [np.empty(0)] * len(rows)
        bert: Any = self._encoder.bert_model
        training, layers = self._encoder.training, bert.encoder.layer
        self._encoder.eval()
        bert.encoder.layer = layers[: self.layer]  # the others need not run
        try:
            for places, made in zip(batches, spread(run, batches, device.type), strict=True):
                for place, matrix in zip(places, made, strict=True):
                    found[place] = matrix
        finally:
            bert.encoder.layer = layers
            self._encoder.train(training)
        return found


class FrozenImages:
    """Features of a mixture's query images by a vision network: one row for the whole, then the patches'.

    An image is known by its bytes, so what several queries or sources show is kept once.

    Args:
        cache: Folder of what is kept.
        mixture: Whose queries.
        model: The model.
        inputs: Reads images.
        progress: Told of images made.

    Raises:
        MissingError: An image is not there.
    """

    def __init__(
        self,
        cache: "Path",
        mixture: "Mixture",
        model: "PreFLMR",
        inputs: "ModelInputs",
        progress: Progress = SILENT,
    ) -> None:
        self._shares = mixture.shares
        example: dict[str, tuple[int, int]] = {}
        self._digests: dict[tuple[int, str | None], str] = {}
        for share in mixture.shares:
            store = share.split.images
            for row in map(int, share.rows):
                path = share.image(row)
                if (share.number, path) not in self._digests:
                    known = None if store is None or path is None else store.sha256(path)
                    if known is None:
                        inputs.pixels(share.number, row)  # where it must be there, it says so
                    self._digests[share.number, path] = known or "black"
                    example.setdefault(known or "black", (share.number, row))
        digests = sorted(example)
        device = model.device.type
        together = _TOGETHER if device == "cpu" else _TOGETHER_ACCELERATED
        self._item = {digest: number for number, digest in enumerate(digests)}
        vision = model.config.vision_config
        rows, width = 1 + vision.patches, vision.hidden_size
        own = hashlib.sha256()
        if model.config.use_vision_encoder:
            _update(own, model.query_vision_encoder)

        def run(part: list[int]) -> "list[NDArray[np.floating]]":
            with torch.no_grad():
                seen = inputs.features(
                    torch.cat([inputs.pixels(*example[digests[item]]) for item in part])
                )
            both = torch.cat([seen.image_features[:, None], seen.patch_features], dim=1)
            return list(both.float().cpu().numpy())

        def make(items: range) -> "list[NDArray[np.floating]]":
            made = spread(run, [*chunks(items, together)], device)
            return [each for part in made for each in part]

        key = {
            "format": FORMAT,
            "images": hashlib.sha256("".join(digests).encode()).hexdigest(),
            "pixels": inputs.image_settings,
            "network": facts(model.config),
            "settings": repr(vision),
            "weights": own.hexdigest(),
            "dtype": str(model.dtype),
        }
        heights = np.full(len(digests), rows, np.int64)
        self._kept = KeptRows(
            cache, key, heights, width, make, progress=progress, name="images of the queries"
        )

    def of(self, visits: "Sequence[Visit]") -> VisionFeatures:
        """Features of the visits' images, float32, on the CPU."""
        paths = [(each.share, self._shares[each.share].image(each.row)) for each in visits]
        rows = np.stack([self._kept[self._item[self._digests[path]]] for path in paths])
        whole = torch.from_numpy(rows.astype(np.float32))
        return VisionFeatures(whole[:, 0].contiguous(), whole[:, 1:].contiguous())


class FrozenFeatures:
    """All that is kept for a mixture, below ``cache/training`` in the data root of its first source.

    Args:
        recipe: Its ``trained`` and ``text_layers`` say what is frozen.
        mixture: Whose queries and pools.
        model: With the weights that training starts from.
        inputs: What the model reads of them.
        progress: Told of what is made.

    Attributes:
        images: Features of images; None where the vision network is trained, or the model reads none.

    Raises:
        UsageError: It would be too big.
        MissingError: An image is not there.
    """

    def __init__(
        self,
        recipe: "Recipe",
        mixture: "Mixture",
        model: "PreFLMR",
        inputs: "ModelInputs",
        progress: Progress = SILENT,
    ) -> None:
        cache = mixture.shares[0].split.folder.parent / "cache" / "training"
        self._shares, self._pool_of = mixture.shares, mixture.pool_of
        self._queries: dict[int, FrozenTexts] = {}
        self._passages: dict[int, FrozenTexts] = {}
        sees = inputs.sees and "vision_encoder" not in recipe.trained
        layer = frozen_layer(recipe, model.config.text_config.num_hidden_layers)
        images = _bytes_of_images(mixture, model) if sees else 0
        _require_room(images, 0 if layer is None else _bytes_of_texts(mixture, model, inputs))
        self.images = FrozenImages(cache, mixture, model, inputs, progress) if sees else None
        if layer is None:
            return
        read = partial(FrozenTexts, cache, layer=layer, progress=progress)
        for share in mixture.shares:
            places = [(share.number, row) for row in share.rows.tolist()]
            self._queries[share.number] = read(
                encoder=model.query_text_encoder,
                count=len(places),
                tokens=partial(_chosen, inputs.query_tokens, places),
                width=inputs.query_width,
                pad=0,
                name=f"queries of {share.split.label}",
            )
        for pool in mixture.pools:
            split = mixture.shares[pool].split
            self._passages[pool] = read(
                encoder=model.context_text_encoder,
                count=len(split.passages_view),
                tokens=partial(_of_pool, inputs.passage_tokens, pool),
                width=inputs.passage_width,
                pad=inputs.pad,
                name=f"passages of {split.label}",
            )

    def query_text(self, visits: "Sequence[Visit]", width: int) -> FrozenText | None:
        """Of the visits' queries, (queries x width x hidden); None if no layer is frozen."""
        if not self._queries:
            return None
        rows = {share.number: share.rows for share in self._shares}
        return _filled(
            ((self._queries[v.share], int(np.searchsorted(rows[v.share], v.row))) for v in visits),
            width,
        )

    def passage_text(self, drawn: "Sequence[Drawn]", width: int) -> FrozenText | None:
        """Of passages likewise."""
        if not self._passages:
            return None
        return _filled(
            ((self._passages[self._pool_of[each.share]], each.row) for each in drawn), width
        )


def _bytes_of_images(mixture: "Mixture", model: "PreFLMR") -> float:
    """What features of all images take, at most: two paths may lead to the same."""
    paths = {(s.number, s.image(row)) for s in mixture.shares for row in s.rows.tolist()}
    vision = model.config.vision_config
    return 2.0 * len(paths) * (1 + vision.patches) * vision.hidden_size


def _bytes_of_texts(mixture: "Mixture", model: "PreFLMR", inputs: "ModelInputs") -> float:
    """What states of all texts take, about: passages are as long as some of them are."""
    tokens = 0.0
    for share in mixture.shares:
        row = inputs.query_tokens([(share.number, int(share.rows[0]))])[0]
        tokens += len(share.rows) * len(row.ids)
    for pool in mixture.pools:
        count = len(mixture.shares[pool].split.passages_view)
        rows = np.linspace(0, count - 1, min(count, _SAMPLE), dtype=np.int64).tolist()
        some = inputs.passage_tokens([(pool, row) for row in rows])
        tokens += count * sum(len(row.ids) for row in some) / len(some)
    return 2.0 * tokens * model.config.text_config.hidden_size


def _require_room(images: float, texts: float) -> None:
    """Refuses what would not fit, before anything is computed."""
    if images + texts > LIMIT:
        raise UsageError(
            f"data.keep_frozen would keep about {(images + texts) / 1e9:,.0f} GB: "
            f"{images / 1e9:,.1f} of images, {texts / 1e9:,.1f} of queries and passages",
            expected=f"at most {LIMIT / 1e9:.0f} GB: it is for sources of some thousand texts and images",
            fix="--set data.keep_frozen=false",
        )


def _weights(encoder: "BertEncoder", layer: int) -> str:
    """Hash (hex) of a text encoder's embeddings and first layers."""
    own = hashlib.sha256()
    bert: Any = encoder.bert_model
    for module in (bert.embeddings, *bert.encoder.layer[:layer]):
        _update(own, module)
    return own.hexdigest()


def _update(own: Any, module: torch.nn.Module) -> None:
    for name, values in sorted(module.named_parameters()):
        own.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        own.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _filled(texts: "Iterable[tuple[FrozenTexts, int]]", width: int) -> FrozenText:
    """States of some texts as float32, zero behind a text's own."""
    chosen = list(texts)
    first = chosen[0][0]
    hidden = np.zeros((len(chosen), width, first.hidden), np.float32)
    for own, (kept, text) in zip(hidden, chosen, strict=True):
        rows = kept[text]
        own[: len(rows)] = rows
    return FrozenText(torch.from_numpy(hidden), first.layer)


def _chosen(
    tokens: "TokensAt", places: Sequence[tuple[int, int]], numbers: Sequence[int]
) -> list[TokenRow]:
    return tokens([places[number] for number in numbers])


def _of_pool(tokens: "TokensAt", pool: int, rows: Sequence[int]) -> list[TokenRow]:
    return tokens([(pool, row) for row in rows])
