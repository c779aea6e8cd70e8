"""Compiles every kernel of a model for an H100, without one; prints one line of JSON per kernel.

Run as a program, so that Triton is imported without its interpreter. Launches are replaced: each
asks the compiler for what a device would be given, with the same constants and options.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from llamastream.config import EngineConfig, LlamaConfig
from llamastream.engine.gpu import forward, sampler
from llamastream.engine.gpu.runner import GpuRunner
from llamastream.engine.gpu.weights import tensor_shapes

HOPPER = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}
MATRIX = r"(wgmma\.mma_async\.sync\.aligned\.m\d+n\d+k\d+|mma\.sync\.aligned\.m\d+n\d+k\d+)"
MODELS = {  # one layer each: all layers launch the same kernels
    "llama-2-7b": LlamaConfig(32000, 4096, 11008, 1, 32, 32, 128, 4096),
    "smollm2-135m": LlamaConfig(49152, 576, 1536, 1, 9, 3, 64, 2048, tie_word_embeddings=True),
}


class Compiled:
    """Stands where a kernel stood; launching it compiles it once for every set of constants."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.seen = kernel, set[str]()

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.launch

    def launch(self, *args: Any, **named: Any) -> None:
        names = self.kernel.arg_names
        options = {name: named.pop(name) for name in list(named) if name not in names}
        bound = {**dict(zip(names, args, strict=False)), **named}
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.kernel.params):
            value = bound[parameter.name]
            if parameter.is_constexpr or value is None:
                signature[parameter.name], constants[(index,)] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = TYPES[value.dtype]
                attributes[(index,)] = [["tt.divisibility", 16]]
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        key = f"{signature} {constants} {options}"
        if key not in self.seen:
            self.seen.add(key)
            source = ASTSource(self.kernel, signature, constants, attributes)
            self.report(triton.compile(source, target=HOPPER, options=options), constants)

    def report(self, compiled: Any, constants: dict[Any, Any]) -> None:
        named = {self.kernel.params[index].name: v for (index,), v in constants.items()}
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            command = [str(CUOBJDUMP), "-res-usage", file.name]
            usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        registers, stack = (int(re.findall(rf"{w}:(\d+)", usage)[-1]) for w in ("REG", "STACK"))
        line = {
            "kernel": self.kernel.__name__,
            "registers": registers,
            "stack": stack,
            "shared": compiled.metadata.shared,
            "matrix": sorted(set(re.findall(MATRIX, compiled.asm["ptx"]))),
            "constants": named,
        }
        print(json.dumps(line), flush=True)


def main(model: str, dtype: Any) -> None:
    for module in (forward, sampler):
        for name, value in list(vars(module).items()):
            if isinstance(value, JITFunction):
                setattr(module, name, Compiled(value))
    config = MODELS[model]
    engine = EngineConfig(
        dtype=dtype,
        max_num_seqs=256,
        max_num_batched_tokens=512,
        max_model_len=64,
        kv_cache_bytes=2**27,
    )
    shapes = tensor_shapes(config)
    runner = GpuRunner.load(
        config,
        engine,
        lambda: ((n, np.zeros(s, np.float32)) for n, s in shapes.items()),
        device="cpu",
    )
    runner.queue_every_size()


if __name__ == "__main__":
    main(*sys.argv[1:])
