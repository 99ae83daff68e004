"""Which token rows count: the official query and document masks, computed on the ids' device."""

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from m2kr.preflmr.inputs.tokenization import ContextTokenizer, QueryTokenizer
    from m2kr.preflmr.model.configuration import PreFLMRConfig

_PAD = 0  # the official code compares with 0, whatever pad_token_id says
#: Ids in the full vocabulary of bert-base-uncased, for models made without a tokenizer.
_BERT_PUNCTUATION = (*range(999, 1014), *range(1024, 1037), *range(1063, 1067))
_BERT_COLON = 1024


@dataclass(frozen=True, slots=True)
class TokenMasks:
    """The token ids that decide which rows are zero.

    Attributes:
        punctuation: Document tokens that don't count.
        instruction_end: The token that ends a query's instruction; ``None`` keeps instructions.
        query_skip: Query tokens that don't count.
    """

    punctuation: tuple[int, ...]
    instruction_end: int | None
    query_skip: tuple[int, ...]

    @classmethod
    def of(
        cls,
        config: "PreFLMRConfig",
        query_tokenizer: "QueryTokenizer | None",
        context_tokenizer: "ContextTokenizer | None",
    ) -> Self:
        """The ids that a config asks for, looked up as the official code does.

        Each punctuation character stands for the first piece of its encoding, and so does the
        instruction token. Without tokenizers the ids are those of bert-base-uncased.
        """
        punctuation: tuple[int, ...] = ()
        if config.mask_punctuation:
            punctuation = _BERT_PUNCTUATION
            if context_tokenizer is not None:
                encode = context_tokenizer.encode
                firsts = {encode(each, add_special_tokens=False)[0] for each in string.punctuation}
                punctuation = tuple(sorted(firsts))
        end: int | None = None
        if config.mask_instruction_token:
            end = _BERT_COLON
            if query_tokenizer is not None:
                end = query_tokenizer.encode(
                    config.mask_instruction_token, add_special_tokens=False
                )[0]
        return cls(punctuation, end, config.query_mask_input_ids_skip_list)

    def query(self, input_ids: "Tensor") -> "Tensor":
        """True for query tokens whose rows count.

        [CLS], the marker and what follows the first instruction token count; the instruction does
        not. Where that token is absent (or cut off) the whole query counts.

        Args:
            input_ids: int64, (queries x tokens).

        Returns:
            Bool, (queries x tokens).
        """
        keep = (input_ids != _PAD) & ~_any_of(input_ids, self.query_skip)
        if self.instruction_end is None:
            return keep
        # argmax gives the first hit, and 0, which means "none", where there is no hit.
        end = (input_ids == self.instruction_end).int().argmax(dim=1, keepdim=True).clamp(min=1)
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        return keep & ((position > end) | (position < 2))

    def uninstructed(self, input_ids: "Tensor") -> int:
        """How many queries lack the token that ends the instruction, so that nothing is masked."""
        if self.instruction_end is None:
            return 0
        return int((input_ids != self.instruction_end).all(dim=1).sum())

    def hidden_from_mapping(self, input_ids: "Tensor") -> "Tensor | None":
        """True for query tokens that the mapping network must not see; None if it sees all."""
        return _any_of(input_ids, self.query_skip) if self.query_skip else None

    def context(self, input_ids: "Tensor") -> "Tensor":
        """True for document tokens that count: no filling, no punctuation.

        Args:
            input_ids: int64, (documents x tokens).

        Returns:
            Bool, (documents x tokens).
        """
        return (input_ids != _PAD) & ~_any_of(input_ids, self.punctuation)


def _any_of(input_ids: "Tensor", wanted: tuple[int, ...]) -> "Tensor":
    if not wanted:
        return torch.zeros_like(input_ids, dtype=torch.bool)
    return torch.isin(input_ids, torch.tensor(wanted, device=input_ids.device))
