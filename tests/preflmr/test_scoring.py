"""Scores and losses against loops, and the batch of several ranks against one big batch."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import InputError
from m2kr.preflmr.model import loss, maxsim, scoring
from m2kr.search.exact import reference

shapes = st.tuples(*(st.integers(1, 4) for _ in range(5)), st.integers(0, 99))


def made(
    queries: int, documents: int, query_rows: int, rows: int, dim: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    query = torch.randn(queries, query_rows, dim, generator=draw)
    query[torch.rand(queries, query_rows, generator=draw) < 0.2] = 0
    document = torch.randn(documents, rows, dim, generator=draw)
    return query, document, torch.rand(documents, rows, generator=draw) < 0.7


@settings(deadline=None)
@given(shapes)
def test_all_scores_are_maxsim(shape: tuple[int, ...]) -> None:
    query, document, mask = made(*shape)
    found = maxsim.all_scores(query, document, mask)
    for i, rows in enumerate(query):
        for j, (tokens, kept) in enumerate(zip(document, mask, strict=True)):
            if kept.any():
                wanted = sum(max(float(row @ each) for each in tokens[kept]) for row in rows)
            else:
                wanted = scoring.MASKED * len(rows)
            assert float(found[i, j]) == pytest.approx(wanted, abs=1e-5, rel=1e-5)


def test_the_search_engines_score_is_the_same() -> None:
    query, document, mask = made(3, 4, 5, 6, 8, 0)
    mask[:, 0] = True
    found = maxsim.all_scores(query, document, mask).numpy()
    for i, rows in enumerate(query.numpy()):
        for j, (tokens, kept) in enumerate(zip(document.numpy(), mask.numpy(), strict=True)):
            wanted = reference.maxsim(rows, tokens[kept], np.float32)
            assert found[i, j] == pytest.approx(wanted, abs=1e-5)


@settings(deadline=None)
@given(shapes)
def test_pairs_is_the_diagonal(shape: tuple[int, ...]) -> None:
    query, document, mask = made(shape[0], *shape[:1], *shape[2:])
    every = maxsim.all_scores(query, document, mask)
    assert torch.allclose(
        scoring.score_pairs(query, document, mask.unsqueeze(-1)), every.diagonal()
    )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    query, document, mask = made(3, 9, 4, 5, 8, 1)
    whole = maxsim.all_scores(query, document, mask)
    monkeypatch.setattr(maxsim, "_BLOCK", 2 * 3 * 4 * 5)
    assert torch.allclose(maxsim.all_scores(query, document, mask), whole)


def test_low_precision_is_scored_in_float32() -> None:
    query, document, mask = made(2, 2, 3, 4, 8, 2)
    low = maxsim.all_scores(query.bfloat16(), document.bfloat16(), mask)
    assert low.dtype == torch.float32
    assert torch.equal(low, maxsim.all_scores(query.bfloat16().float(), document.bfloat16(), mask))


def test_shapes_that_do_not_fit_are_named() -> None:
    query, document, mask = made(2, 3, 3, 4, 8, 2)
    with pytest.raises(InputError, match="paired"):
        scoring.score_pairs(query, document, mask)
    with pytest.raises(InputError, match="shapes"):
        maxsim.all_scores(query, document, mask[:, 1:])


def test_losses_are_cross_entropies() -> None:
    query, document, mask = made(3, 9, 4, 5, 8, 3)
    every = maxsim.all_scores(query, document, mask)
    wanted = -torch.stack([every[i].log_softmax(0)[3 * i] for i in range(3)]).mean()
    assert torch.allclose(loss.in_batch(query, document, mask), wanted)
    own = torch.stack([every[i, 3 * i : 3 * i + 3] for i in range(3)])
    assert torch.allclose(loss.pairwise(own), -own.log_softmax(1)[:, 0].mean())


def test_documents_must_divide_among_queries() -> None:
    query, document, mask = made(2, 3, 3, 4, 8, 2)
    with pytest.raises(InputError, match="3 documents for 2 queries"):
        loss.in_batch(query, document, mask)


def rank(number: int, world: int, store: str, results: Any) -> None:
    """One rank: its share of the batch, with a document length of its own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=number, world_size=world
    )
    query, document, mask = made(4, 8, 3, 6, 5, 4)
    mask[:, 4:] = False
    length = 6 if number else 4
    own_q, own_d = query[2 * number :][:2], document[4 * number :][:4, :length]
    own_q.requires_grad_()
    own_d.requires_grad_()
    batch = loss.gather_ranks(own_q, own_d, mask[4 * number :][:4, :length])
    value = loss.in_batch(*batch)
    value.backward()
    results.put((number, value.item(), own_q.grad.numpy(), own_d.grad.numpy()))
    torch.distributed.destroy_process_group()


def test_ranks_together_are_one_big_batch(tmp_path: Path) -> None:
    query, document, mask = made(4, 8, 3, 6, 5, 4)
    mask[:, 4:] = False
    query.requires_grad_()
    document.requires_grad_()
    whole = loss.in_batch(query, document, mask)
    whole.backward()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [
        context.Process(target=rank, args=(n, 2, str(tmp_path / "store"), results))
        for n in range(2)
    ]
    for each in ranks:
        each.start()
    found = sorted((results.get(timeout=60) for _ in ranks), key=lambda each: each[0])
    for each in ranks:
        each.join(60)
    assert query.grad is not None
    assert document.grad is not None
    for number, value, query_grad, document_grad in found:
        assert value == pytest.approx(whole.item(), rel=1e-6)
        length = document_grad.shape[1]
        assert np.allclose(query_grad, query.grad[2 * number :][:2], atol=1e-6)
        assert np.allclose(document_grad, document.grad[4 * number :][:4, :length], atol=1e-6)
        assert not document.grad[:, length:].any()


def test_without_ranks_the_batch_is_its_own() -> None:
    batch = made(2, 2, 3, 4, 8, 2)
    assert all(a is b for a, b in zip(loss.gather_ranks(*batch), batch, strict=True))
