"""From vision features to query rows: the MLP, and the transformer mapping network of PreFLMR.

Parameter names are those of the official checkpoints.
"""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.preflmr.model.configuration import BertSettings


class VisionProjection(nn.Module):
    """The MLP that turns one global image feature into ``prefix_length`` rows (FLMR, section 3.1).

    Args:
        features: Width of the vision encoder.
        prefix_length: Rows an image gives.
        dim: Width of a row.
    """

    def __init__(self, features: int, prefix_length: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        out = prefix_length * dim
        self.model = nn.Sequential(
            nn.Linear(features, out // 2), nn.Tanh(), nn.Linear(out // 2, out)
        )

    def forward(self, image_features: "Tensor") -> "Tensor":
        """Rows, not normalised: (B x features) or (B x images x features) to (B x rows x dim)."""
        mapped: Tensor = self.model(image_features)
        return mapped.view(len(image_features), -1, self.dim)


class TransformerMapping(nn.Module):
    """Transformer layers over image patches that read the question by cross-attention.

    Self-attention is bidirectional. The official code takes BERT's decoder layer for its
    cross-attention and bypasses the code that would make it causal; here it is written out, so that
    no version of a library can turn it causal.

    Args:
        settings: The BERT config of the network.
        layers: Number of layers.
        attention: ``"sdpa"`` or ``"eager"``.
    """

    def __init__(self, settings: "BertSettings", layers: int, attention: str = "sdpa") -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(settings, attention) for _ in range(layers))

    def forward(
        self, patches: "Tensor", text: "Tensor", text_mask: "Tensor | None" = None
    ) -> "Tensor":
        """Patches after the network.

        Args:
            patches: (B x patches x hidden).
            text: Hidden states that are attended to, (B x tokens x hidden).
            text_mask: Bool, (B x tokens), True where a token may be seen; None: all of them.

        Returns:
            (B x patches x hidden).
        """
        mask = None
        if text_mask is not None:
            # The lowest number, not minus infinity: a text that is hidden whole is seen evenly, as in
            # the official code, and gives no NaN.
            hidden = ~text_mask[:, None, None, :]
            mask = torch.zeros_like(hidden, dtype=text.dtype)
            mask = mask.masked_fill(hidden, torch.finfo(text.dtype).min)
        for layer in self.layer:
            patches = layer(patches, text, mask)
        return patches


class _Layer(nn.Module):
    def __init__(self, settings: "BertSettings", attention: str) -> None:
        super().__init__()
        self.attention = _Attention(settings, attention)
        self.crossattention = _Attention(settings, attention)
        self.intermediate = _Intermediate(settings)
        self.output = _Residual(settings, settings.intermediate_size)

    def forward(self, hidden: "Tensor", text: "Tensor", mask: "Tensor | None") -> "Tensor":
        hidden = self.attention(hidden, hidden, None)
        hidden = self.crossattention(hidden, text, mask)
        out: Tensor = self.output(self.intermediate(hidden), hidden)
        return out


class _Attention(nn.Module):
    def __init__(self, settings: "BertSettings", attention: str) -> None:
        super().__init__()
        self.self = _Heads(settings, attention)
        self.output = _Residual(settings, settings.hidden_size)

    def forward(self, hidden: "Tensor", source: "Tensor", mask: "Tensor | None") -> "Tensor":
        out: Tensor = self.output(self.self(hidden, source, mask), hidden)
        return out


class _Heads(nn.Module):
    def __init__(self, settings: "BertSettings", attention: str) -> None:
        super().__init__()
        width = settings.hidden_size
        self.heads = settings.num_attention_heads
        self.dropout = settings.attention_probs_dropout_prob
        self.attend = _eager if attention == "eager" else F.scaled_dot_product_attention
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, hidden: "Tensor", source: "Tensor", mask: "Tensor | None") -> "Tensor":
        query, key, value = self.query(hidden), self.key(source), self.value(source)
        dropout = self.dropout if self.training else 0.0
        mixed = self.attend(
            self._split(query), self._split(key), self._split(value), mask, dropout_p=dropout
        )
        return mixed.transpose(1, 2).flatten(2)

    def _split(self, states: "Tensor") -> "Tensor":
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)


def _eager(
    query: "Tensor", key: "Tensor", value: "Tensor", mask: "Tensor | None", dropout_p: float
) -> "Tensor":
    """Attention step by step, which rounds as the official code does."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    weights = (scores if mask is None else scores + mask).softmax(dim=-1)
    return F.dropout(weights, dropout_p) @ value


class _Intermediate(nn.Module):
    def __init__(self, settings: "BertSettings") -> None:
        super().__init__()
        from transformers.activations import ACT2FN

        self.dense = nn.Linear(settings.hidden_size, settings.intermediate_size)
        self.activation: nn.Module = ACT2FN[settings.hidden_act]

    def forward(self, hidden: "Tensor") -> "Tensor":
        out: Tensor = self.activation(self.dense(hidden))
        return out


class _Residual(nn.Module):
    def __init__(self, settings: "BertSettings", width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, settings.hidden_size)
        self.LayerNorm = nn.LayerNorm(settings.hidden_size, eps=settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.hidden_dropout_prob)

    def forward(self, hidden: "Tensor", residual: "Tensor") -> "Tensor":
        out: Tensor = self.LayerNorm(self.dropout(self.dense(hidden)) + residual)
        return out
