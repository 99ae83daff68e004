"""Compiles the fused kernel for GPUs that needn't be here, and prints what it needs of them.

    python compile_fused.py

One JSON object a line: compute capability, shape, bytes of shared memory, registers a thread and bytes
that don't fit them, and instructions for the tensor cores and for fetching ahead. Needs Triton, not
interpreted.
"""

import json
import re
import subprocess
import tempfile
from dataclasses import astuple
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from m2kr.search.exact import gpu_fused

TYPES = {
    "rows": "*fp16",
    "tokens": "*fp16",
    "starts": "*i64",
    "lengths": "*i32",
    "sums": "*fp32",
    "all_rows": "i32",
    "passages": "i32",
    "parts_a_query": "i32",
}


def compiled(capability: int, shape: gpu_fused.TileShape, dim: int = 128) -> dict:
    kernel, _ = gpu_fused._compiled()
    known = {"ROWS": shape.rows, "PASSAGES": shape.passages, "DIM": dim, "WIDTH": dim}
    known["PART"] = gpu_fused.PART
    signature = {**TYPES, **dict.fromkeys(known, "constexpr")}
    names = list(signature)
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in known.items()},
        attrs={(place,): [["tt.divisibility", 16]] for place in range(5)},
    )
    options = {"num_warps": shape.warps, "num_stages": shape.stages, "enable_fp_fusion": False}
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    text = done.asm["ptx"]
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(done.asm["cubin"])
        file.flush()
        told = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    usage = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}
    return {
        "capability": capability,
        "shape": astuple(shape),
        "shared": done.metadata.shared,
        "registers": usage["REG"],
        "spilled": usage["STACK"] + usage["LOCAL"],
        "tensor cores": text.count("wgmma.mma_async") + text.count("mma.sync"),
        "fetched ahead": text.count("cp.async.cg"),
    }


if __name__ == "__main__":
    for capability in (80, 90):
        for shape in gpu_fused.SHAPES:
            print(json.dumps(compiled(capability, shape)))
