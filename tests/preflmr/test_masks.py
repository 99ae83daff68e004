"""Masks against their rules written out token by token."""

import dataclasses
import string
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from m2kr.preflmr import ContextTokenizer, PreFLMRConfig, QueryTokenizer, preset
from m2kr.preflmr.model.masks import TokenMasks

GOLDEN = Path(__file__).parents[1] / "golden"
COLON = 1024
ids = st.lists(st.sampled_from([0, 101, 1, 1024, 103, 7, 8, 1012]), min_size=2, max_size=12)


@given(ids, st.sets(st.sampled_from([7, 103])), st.booleans())
def test_query_mask(row: list[int], skip: set[int], masking: bool) -> None:
    masks = TokenMasks((), COLON if masking else None, tuple(skip))
    end = max(1, row.index(COLON) if COLON in row else 0)
    wanted = [
        token != 0 and token not in skip and (not masking or place < 2 or place > end)
        for place, token in enumerate(row)
    ]
    assert masks.query(torch.tensor([row])).tolist() == [wanted]
    assert masks.uninstructed(torch.tensor([row])) == int(masking and COLON not in row)


@given(ids)
def test_context_mask(row: list[int]) -> None:
    masks = TokenMasks((1012, 1024), COLON, (7,))
    wanted = [token not in (0, 1012, 1024) for token in row]
    assert masks.context(torch.tensor([row])).tolist() == [wanted]


@given(ids)
def test_tokens_hidden_from_the_mapping_network(row: list[int]) -> None:
    batch = torch.tensor([row])
    assert TokenMasks((), None, ()).hidden_from_mapping(batch) is None
    hidden = TokenMasks((), None, (7,)).hidden_from_mapping(batch)
    assert hidden is not None
    assert hidden.tolist() == [[token == 7 for token in row]]


def test_ids_without_tokenizers_are_those_of_bert() -> None:
    folder = GOLDEN / "tiny_preflmr"
    query, context = (
        QueryTokenizer.from_pretrained(folder),
        ContextTokenizer.from_pretrained(folder),
    )
    config = preset("vit-l").config
    assert TokenMasks.of(config, None, None) == TokenMasks.of(config, query, context)
    assert len(TokenMasks.of(config, None, None).punctuation) == len(string.punctuation)


def test_the_config_turns_masks_off() -> None:
    config = dataclasses.replace(
        PreFLMRConfig(), mask_punctuation=False, query_mask_input_ids_skip_list=(5,)
    )
    assert TokenMasks.of(config, None, None) == TokenMasks((), None, (5,))
