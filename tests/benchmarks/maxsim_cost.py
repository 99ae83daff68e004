"""What the training loss's scores and their gradients cost, in a process of its own.

    python maxsim_cost.py STEP FOLDER QUERIES

With 1 + 4 documents a query, 512 document tokens, 320 query rows, 128 wide, float32. Prints one JSON
object. Steps: ``compare`` (CPU seconds of MaxSim in blocks and of the plain formula, in turn), ``memory``
(most bytes in use over what the imports take, of MaxSim in blocks).
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

from m2kr.evaluation.result import peak_memory
from m2kr.preflmr.model.maxsim import all_scores

EACH, ROWS, TOKENS, DIM, REPEATS = 5, 320, 512, 128, 3


def plain(queries: torch.Tensor, documents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    near = torch.einsum("qid,njd->qnij", queries, documents)
    return near.masked_fill(~mask[None, :, None, :], -9999.0).max(-1).values.sum(-1)


def inputs(queries: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    query = F.normalize(torch.randn(queries, ROWS, DIM, generator=draw), dim=-1)
    document = F.normalize(torch.randn(queries * EACH, TOKENS, DIM, generator=draw), dim=-1)
    mask = torch.rand(queries * EACH, TOKENS, generator=draw) < 0.85
    return query.requires_grad_(), document.requires_grad_(), mask


def compare(queries: int) -> dict:
    query, document, mask = inputs(queries)
    seconds: dict[str, list[float]] = {"blocks": [], "plain": []}
    for _ in range(REPEATS):
        for name, scores in (("blocks", all_scores), ("plain", plain)):
            begun = time.process_time()
            loss = F.cross_entropy(scores(query, document, mask), torch.arange(queries) * EACH)
            torch.autograd.grad(loss, [query, document])
            seconds[name].append(time.process_time() - begun)
    return {name: min(each) for name, each in seconds.items()}


def memory(queries: int) -> dict:
    loss = all_scores(*inputs(1)).sum()
    loss.backward()
    before = peak_memory()
    query, document, mask = inputs(queries)
    begun = time.process_time()
    loss = F.cross_entropy(all_scores(query, document, mask), torch.arange(queries) * EACH)
    torch.autograd.grad(loss, [query, document])
    return {
        "over": peak_memory() - before,
        "naive": 4 * queries * queries * EACH * ROWS * TOKENS,
        "seconds": time.process_time() - begun,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"compare": compare, "memory": memory}[sys.argv[1]](int(sys.argv[3]))))
