"""BEM, BERT matching: whether an answer says the same as a reference answer to a question.

By Bulian et al., Tomayto, Tomahto (EMNLP 2022). Two checkpoints go by this name and don't give the same
scores: Google's (TensorFlow Hub, google/answer_equivalence/bem/1) and a reproduction on the Hugging Face
hub (kortukov/answer-equivalence-bem). `Bem.facts` tells which one scored, by digest.

Known, and the same for both: an uncased BERT-base whose input is
``[CLS] candidate [SEP] reference [SEP] question [SEP]``; the softmax of two logits; class 1 means
equivalent. They differ in the segment ids: Google's example numbers its three segments 0, 1, 2, the
reproduction's has two, 0 for the candidate and 1 for the rest.

Assumed:

- segments by the checkpoint: 0, 1, 2 if it has three or more segment embeddings, or else 0, 1, 1.
  The setting ``bem.segments`` overrides it. With 0, 1, 2 and but two embeddings the question's
  segment adds nothing, as TensorFlow's look-up by one-hot vectors has it.
- padding is masked, so none is needed: Google's example pads to 512 and gives no mask.
- gelu by the error function, unless config.json names another; ``bem.activation=gelu_new`` is the tanh
  form of TensorFlow's Model Garden.
- Google's example fails for more than 512 tokens. Here the longest of the three parts is cut at its end,
  token by token, the candidate first of equal ones; the verdict says so.

Every triple is scored once, alone and without padding, so its score depends on nothing else. TensorFlow
isn't used.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from m2kr.errors import InputError, UsageError, missing_dependency
from m2kr.preflmr.inputs import wordpiece
from m2kr.rag.scorers.bem_checkpoint import BemCheckpoint, read_bem_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_SEGMENTS = {"0,1,2": (0, 1, 2), "0,1,1": (0, 1, 1)}
_ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
_TYPES = "bert.embeddings.token_type_embeddings.weight"
_LONGEST = 512


class Equivalence(NamedTuple):
    """What BEM says of one candidate.

    Attributes:
        probability: That it is equivalent to the reference, from 0 to 1.
        cut_tokens: Tokens that were cut off to make the three texts fit; nearly always 0.
    """

    probability: float
    cut_tokens: int


class Bem:
    """A BEM checkpoint that scores.

    Args:
        checkpoint: Its weights and vocabulary.
        segments: ``0,1,2`` or ``0,1,1``; None chooses by the checkpoint.
        activation: ``gelu`` or ``gelu_new``; None takes the checkpoint's.

    Raises:
        InputError: The vocabulary or the checkpoint's activation isn't BERT's.
        UsageError: A setting has another value.
    """

    def __init__(
        self,
        checkpoint: BemCheckpoint,
        *,
        segments: str | None = None,
        activation: str | None = None,
    ) -> None:
        import torch

        self._checkpoint = checkpoint
        self._tensors = dict(checkpoint.tensors)
        rows = len(self._tensors[_TYPES])
        self._segments = segments or ("0,1,1" if rows < len(_SEGMENTS["0,1,2"]) else "0,1,2")
        if self._segments not in _SEGMENTS:
            raise UsageError(f"bem.segments is {segments!r:.80}", expected=" or ".join(_SEGMENTS))
        if rows <= max(_SEGMENTS[self._segments]):
            if rows < len(_SEGMENTS["0,1,2"]) - 1:
                raise InputError(f"the tensor {_TYPES} has {rows} rows", expected="2 or more")
            none = torch.zeros_like(self._tensors[_TYPES][:1])
            self._tensors[_TYPES] = torch.cat([self._tensors[_TYPES], none])
        self._activation = activation or checkpoint.activation
        if self._activation not in _ACTIVATIONS:
            what = f"the activation of BEM is {self._activation!r:.80}"
            error = InputError if activation is None else UsageError
            raise error(what, expected=", ".join(_ACTIVATIONS))
        self._positions = min(
            _LONGEST, len(self._tensors["bert.embeddings.position_embeddings.weight"])
        )
        config = dict(checkpoint.tokenizer_config)
        self._config = config
        self._pieces = wordpiece.build_pieces(list(checkpoint.tokens), config, where="BEM")
        # "[SEP]" in an answer is a text like any other.
        self._pieces.encode_special_tokens = True
        self._cls, self._sep, _ = (self._special(token) for token in ("[CLS]", "[SEP]", "[UNK]"))
        self._sha256 = checkpoint.sha256()
        self._kept: dict[tuple[str, str, str], Equivalence] = {}

    @classmethod
    def open(
        cls, folder: str | Path, *, segments: str | None = None, activation: str | None = None
    ) -> Self:
        """Reads a checkpoint of a local folder; see `read_bem_checkpoint`.

        Args:
            folder: With weights in TensorFlow's or PyTorch's names, and the vocabulary.
            segments: As of the class.
            activation: As of the class.

        Raises:
            InputError: A file is damaged, or a tensor is unknown, missing or of another shape.
            MissingError: The folder, the weights, the vocabulary or a package are missing.
        """
        try:
            import safetensors  # noqa: F401
            import tokenizers  # noqa: F401
            import torch  # noqa: F401
        except ModuleNotFoundError as error:
            raise missing_dependency(str(error.name), "models", "BEM") from None
        return cls(read_bem_checkpoint(Path(folder)), segments=segments, activation=activation)

    def facts(self) -> Mapping[str, Any]:
        """Which BEM it is, by the digest of weights and vocabulary, and how it is read."""
        return {
            "sha256": self._sha256,
            "segments": self._segments,
            "activation": self._activation,
            "max_tokens": self._positions,
        }

    def probability(self, candidate: str, reference: str, question: str) -> float:
        """The probability that a candidate answers a question as the reference does, from 0 to 1."""
        return self.compare(candidate, reference, question).probability

    def compare(self, candidate: str, reference: str, question: str) -> Equivalence:
        """`probability`, and what of the texts was cut off."""
        triple = (candidate, reference, question)
        if triple not in self._kept:
            parts = [self._ids(text) for text in triple]
            cut = self._cut(parts)
            ids, segments = [self._cls], [0]
            for part, segment in zip(parts, _SEGMENTS[self._segments], strict=True):
                ids += [*part, self._sep]
                segments += [segment] * (len(part) + 1)
            self._kept[triple] = Equivalence(self._equivalent(ids, segments), cut)
        return self._kept[triple]

    def _special(self, token: str) -> int:
        number = self._pieces.token_to_id(token)
        if number is None:
            raise InputError(f"BEM's vocabulary lacks {token}", expected="BERT's vocabulary")
        return number

    def _ids(self, text: str) -> list[int]:
        cleaned = wordpiece.cleaned(text, self._config)
        ids: list[int] = self._pieces.encode(cleaned, add_special_tokens=False).ids
        return ids

    def _cut(self, parts: list[list[int]]) -> int:
        before = sum(map(len, parts))
        for part in parts:
            del part[self._positions :]  # soon done with an answer of a million words
        while sum(map(len, parts)) + len(parts) + 1 > self._positions:
            max(parts, key=len).pop()
        return before - sum(map(len, parts))

    def _equivalent(self, ids: list[int], segments: list[int]) -> float:
        import torch

        with torch.inference_mode():
            logits = self._logits(torch.tensor(ids), torch.tensor(segments))
            return float(torch.softmax(logits.double(), dim=-1)[1])

    def _logits(self, ids: "Tensor", segments: "Tensor") -> "Tensor":
        """The two logits of one input.

        Args:
            ids: (tokens).
            segments: (tokens).
        """
        from torch.nn.functional import gelu

        tensors, heads = self._tensors, self._checkpoint.heads
        states = (
            tensors["bert.embeddings.word_embeddings.weight"][ids]
            + tensors[_TYPES][segments]
            + tensors["bert.embeddings.position_embeddings.weight"][: len(ids)]
        )
        states = self._norm("bert.embeddings.LayerNorm", states)
        for number in range(self._checkpoint.layers):
            layer = f"bert.encoder.layer.{number}"
            # (heads x tokens x head size)
            query, key, value = (
                self._dense(f"{layer}.attention.self.{name}", states)
                .view(len(ids), heads, -1)
                .transpose(0, 1)
                for name in ("query", "key", "value")
            )
            weights = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
            attended = (weights @ value).transpose(0, 1).flatten(1)
            attended = self._dense(f"{layer}.attention.output.dense", attended)
            states = self._norm(f"{layer}.attention.output.LayerNorm", attended + states)
            wide = self._dense(f"{layer}.intermediate.dense", states)
            wide = gelu(wide, approximate=_ACTIVATIONS[self._activation])
            narrow = self._dense(f"{layer}.output.dense", wide)
            states = self._norm(f"{layer}.output.LayerNorm", narrow + states)
        return self._dense("classifier", self._dense("bert.pooler.dense", states[0]).tanh())

    def _dense(self, name: str, states: "Tensor") -> "Tensor":
        from torch.nn.functional import linear

        return linear(states, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])

    def _norm(self, name: str, states: "Tensor") -> "Tensor":
        from torch.nn.functional import layer_norm

        weight, bias = self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
        return layer_norm(states, weight.shape, weight, bias, self._checkpoint.epsilon)
