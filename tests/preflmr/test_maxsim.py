"""MaxSim in blocks: values and gradients of the plain formula, and what it keeps in memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import InputError
from m2kr.preflmr.model import maxsim, scoring

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
sizes = st.tuples(*(st.integers(1, most) for most in (4, 5, 5, 7, 4)), st.integers(0, 999))


def plain(queries: torch.Tensor, documents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    near = torch.einsum("qid,njd->qnij", queries, documents)
    return near.masked_fill(~mask[None, :, None, :], scoring.MASKED).max(-1).values.sum(-1)


def made(size: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensors:
    """Whole numbers, so that there are ties; zero query rows, and documents that are masked whole."""
    queries, documents, rows, tokens, dim, seed = size
    draw = torch.Generator().manual_seed(seed)
    query = torch.randn(queries, rows, dim, generator=draw).round()
    query[torch.rand(queries, rows, generator=draw) < 0.2] = 0
    document = torch.randn(documents, tokens, dim, generator=draw).round()
    mask = torch.rand(documents, tokens, generator=draw) < 0.7
    mask[torch.rand(documents, generator=draw) < 0.2] = False
    return query.to(dtype).requires_grad_(), document.to(dtype).requires_grad_(), mask


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(1, 300), st.integers(1, 8))
def test_values_and_gradients_are_those_of_the_plain_formula(
    size: tuple[int, ...], block: int, tokens: int
) -> None:
    query, document, mask = made(size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "_BLOCK", block)
        patch.setattr(maxsim, "_TOKENS", tokens)
        found = maxsim.all_scores(query, document, mask)
    wanted = plain(query, document, mask)
    assert found.shape == wanted.shape
    assert torch.equal(found, wanted)
    weights = torch.randn(wanted.shape, dtype=wanted.dtype)
    ours = torch.autograd.grad(found, [query, document], weights)
    for own, right in zip(
        ours, torch.autograd.grad(wanted, [query, document], weights), strict=True
    ):
        assert torch.allclose(own, right, rtol=1e-12, atol=1e-12)


def test_one_side_alone_may_be_trained() -> None:
    query, document, mask = made((3, 4, 5, 6, 4, 0))
    both = torch.autograd.grad(maxsim.all_scores(query, document, mask).sum(), [query, document])
    for n, inputs in enumerate([(query, document.detach()), (query.detach(), document)]):
        (own,) = torch.autograd.grad(maxsim.all_scores(*inputs, mask).sum(), inputs[n])
        assert torch.equal(own, both[n])
    assert not maxsim.all_scores(query.detach(), document.detach(), mask).requires_grad


def test_low_precision_is_scored_in_float32_under_autocast_too() -> None:
    query, document, mask = (each.detach() for each in made((3, 4, 5, 6, 4, 1), torch.bfloat16))
    wide = query.float().requires_grad_(), document.float().requires_grad_()
    wanted = maxsim.all_scores(*wide, mask)
    wanted.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        low = (wide[0].detach().requires_grad_(), wide[1].detach().requires_grad_())
        found = maxsim.all_scores(*low, mask)
        found.sum().backward()
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    assert torch.equal(maxsim.all_scores(query, document, mask), wanted)
    for own, right in zip(low, wide, strict=True):
        assert torch.equal(own.grad, right.grad)


def test_nothing_hides_a_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maxsim, "_TOKENS", 2)
    query, document, mask = (each.detach() for each in made((2, 3, 2, 6, 4, 2)))
    mask[:] = True
    for token in range(6):
        document[1, token, 0] = torch.nan
        query[0] = 1
        scores = maxsim.all_scores(query, document, mask)
        assert scores[0].isnan().tolist() == [False, True, False]
        document[1, token, 0] = 0


def kernel(
    Q: torch.Tensor,  # noqa: N803 - as the package has it
    D: torch.Tensor,  # noqa: N803
    q_mask: torch.Tensor | None = None,
    d_mask: torch.Tensor | None = None,
    *,
    normalize: bool = False,
    backward: str | None = None,
) -> torch.Tensor:
    """What late-interaction-kernels 0.4.5 says of its ``maxsim``, in torch.

    Masked tokens are minus infinity, rows without a token add 0, sums are float32.
    """
    assert q_mask is None
    assert d_mask is not None
    assert not normalize
    assert backward == "unified"
    near = torch.einsum("qid,njd->qnij", Q.float(), D.float())
    best = near.masked_fill(~d_mask[None, :, None, :], -torch.inf).max(-1).values
    return best.masked_fill(best.isinf(), 0.0).sum(-1)


@pytest.mark.parametrize("seed", range(3))
def test_kernels_of_others_give_the_same(seed: int) -> None:
    """Of a stand-in for the package, which needs a GPU."""
    query, document, mask = made((3, 6, 5, 6, 4, seed), torch.bfloat16)
    assert not mask.any(dim=1).all()
    found, wanted = (
        maxsim._fused(kernel, query, document, mask),
        maxsim.all_scores(query, document, mask),
    )
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    weights = torch.randn(wanted.shape).round()
    ours = torch.autograd.grad(found, [query, document], weights)
    for own, right in zip(
        ours, torch.autograd.grad(wanted, [query, document], weights), strict=True
    ):
        assert torch.equal(own, right)
    with torch.no_grad():
        document[1, 0, 0] = torch.nan
    assert maxsim._fused(kernel, query, document, mask)[:, 1].isnan().all() or not mask[1].any()


def test_shapes_that_do_not_fit_are_named() -> None:
    query, document, mask = made((2, 3, 3, 4, 4, 2))
    with pytest.raises(InputError, match="shapes"):
        maxsim.all_scores(query, document, mask[:, 1:])


def largest(size: tuple[int, ...]) -> tuple[int, int]:
    """Bytes of the largest tensor that is made, and of what is kept for the backward pass."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for each in out if isinstance(out, tuple | list) else [out]:
                if isinstance(each, torch.Tensor):
                    self.most = max(self.most, each.untyped_storage().nbytes())
            return out

    query, document, mask = made(size, torch.float32)
    kept: list[int] = []

    def keep(each: torch.Tensor) -> torch.Tensor:
        if each is not query and each is not document and each is not mask:
            kept.append(each.untyped_storage().nbytes())
        return each

    with Watch() as watch:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each):
            scores = maxsim.all_scores(query, document, mask)
        scores.sum().backward()
    return watch.most, sum(kept)


def test_memory_grows_neither_with_documents_nor_with_their_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(maxsim, "_BLOCK", 4096)
    monkeypatch.setattr(maxsim, "_TOKENS", 32)
    for queries, documents, tokens in ((4, 8, 64), (8, 32, 64), (8, 32, 256)):
        most, kept = largest((queries, documents, 16, tokens, 4, 0))
        naive = 4 * queries * documents * 16 * tokens
        inputs = 4 * 4 * max(queries * 16, documents * tokens)
        indices = 2 * queries * documents * 16
        assert kept == indices
        assert most <= max(inputs, indices, 8 * 4096)  # of a block, int64 positions are made
        if tokens == 256:
            assert most <= naive / 20
