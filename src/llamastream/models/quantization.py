"""HF folders whose matrices are quantised already: which kinds run, and which parts make a matrix.

GPTQ and AWQ in 4 bits, as published for Llama 2; all else is refused by name. Reads configuration
and headers only: the numbers are `group_codes`' affair.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llamastream.errors import ModelError
from llamastream.models.checkpoint import Quantised, TensorEntry
from llamastream.models.fields import Fields
from llamastream.models.layout import same_bytes

IN_WORD = 8  # codes of 4 bits
FLOATS = ("F16", "BF16", "F32")
SHARED_INPUTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
)
WAY_OUT = (
    "Use the model's float weights (--dtype int8 or int4 rounds them at the first start), its GPTQ "
    "or AWQ version in 4 bits, or a GGUF file."
)


class Quantization(NamedTuple):
    """What config.json says of all quantised matrices.

    has_order: g_idx counts. zero_offset: what is added to zeros as they are stored.
    """

    is_awq: bool
    has_order: bool
    zero_offset: int

    @property
    def name(self) -> str:
        return "AWQ" if self.is_awq else "GPTQ"


def parse_quantization(values: Mapping[str, Any], source: Path) -> Quantization | None:
    """None for a checkpoint of floats. Raises ModelError for what cannot be run, by name."""
    key = "quantization_config" if values.get("quantization_config") else "compression_config"
    given = values.get(key)
    if not given:
        return None
    if not isinstance(given, dict):
        raise Fields(source, values.get).error(key, "an object", given)
    fields = Fields(source, lambda name: given.get(name.removeprefix(f"{key}.")), f"{key}.")
    method = given.get("quant_method")
    match str(method).lower():
        case "gptq":
            _require(fields, "bits", 4)
            layout = given.get("checkpoint_format") or "gptq"
            if given.get("is_marlin_format"):
                layout = "marlin"
            if layout not in ("gptq", "gptq_v2"):
                raise fields.error("checkpoint_format", "gptq or gptq_v2", layout, WAY_OUT)
            if given.get("dynamic"):  # other bits for some matrices
                raise fields.error("dynamic", "left out", given["dynamic"], WAY_OUT)
            offset = 1 if layout == "gptq" else 0
            return Quantization(False, fields.boolean("desc_act", False), offset)
        case "awq":
            _require(fields, "bits", 4)
            _require(fields, "zero_point", True)
            layout = given.get("version") or "gemm"
            if str(layout).lower() != "gemm":
                raise fields.error("version", "gemm", layout, WAY_OUT)
            return Quantization(True, False, 0)
    raise ModelError(
        f"{source}: checkpoints quantised by {method or key!s:.80} are not supported. {WAY_OUT}"
    )


def _require(fields: Fields, name: str, value: object) -> None:
    if (given := fields.get(name)) != value:
        raise fields.error(name, str(value).lower(), given, WAY_OUT)


def join_parts(
    entries: Sequence[TensorEntry], quantization: Quantization, expected: Collection[str]
) -> list[TensorEntry]:
    """`entries` with one for each quantised matrix in place of its parts.

    expected: the tensors of the model. Biases of zeros that it has not, which some quantisers write
    for every matrix, are left out. Raises ModelError for parts that do not make a matrix.
    """
    modules: dict[str, dict[str, TensorEntry]] = {}
    rest = []
    for entry in entries:
        module, _, part = entry.name.rpartition(".")
        if part in ("qweight", "qzeros", "scales", "g_idx"):
            modules.setdefault(module, {})[part] = entry
        elif part != "bias" or entry.name in expected or not _is_zero(entry):
            rest.append(entry)
    if quantization.has_order:
        _check_orders(modules)
    return [*rest, *(_joined(name, parts, quantization) for name, parts in modules.items())]


def _joined(
    module: str, parts: Mapping[str, TensorEntry], quantization: Quantization
) -> TensorEntry:
    wanted = ["qweight", "qzeros", "scales", *(["g_idx"] if quantization.has_order else [])]
    file = next(iter(parts.values())).file
    for part in wanted:
        if part not in parts:
            raise ModelError(f"{file}: tensor '{module}.{part}' is missing. Download it again.")
        kinds = FLOATS if part == "scales" else ("I32",)
        if parts[part].dtype not in kinds:
            given = parts[part].dtype
            raise ModelError(
                f"{file}: '{module}.{part}' must be {' or '.join(kinds)}. Given: {given}."
            )
    qweight, qzeros, scales = (parts[part] for part in wanted[:3])
    order = parts["g_idx"] if quantization.has_order else None
    shapes = [entry.shape for entry in (qweight, qzeros, scales)]
    if all(len(shape) == 2 for shape in shapes):
        count, rows = scales.shape
        columns = qweight.shape[0] * (1 if quantization.is_awq else IN_WORD)
        packed_rows = rows // IN_WORD
        good = rows % IN_WORD == 0 and count > 0 and qzeros.shape == (count, packed_rows)
        good &= qweight.shape[1] == (packed_rows if quantization.is_awq else rows)
        good &= order is None or order.shape == (columns,)
    else:
        good = False
    if not good:
        raise ModelError(
            f"{file}: the parts of '{module}' do not fit each other in shape: {shapes}. They must "
            f"be {quantization.name}'s in 4 bits. {WAY_OUT}"
        )
    return TensorEntry(
        f"{module}.weight",
        quantization.name,
        (rows, columns),
        qweight.file,
        qweight.offset,
        sum(parts[part].num_bytes for part in wanted),
        quantised=Quantised(
            is_awq=quantization.is_awq,
            zero_offset=quantization.zero_offset,
            qweight=qweight.place,
            qzeros=qzeros.place,
            scales=scales.place,
            g_idx=None if order is None else order.place,
        ),
    )


def _check_orders(modules: Mapping[str, Mapping[str, TensorEntry]]) -> None:
    """Matrices that share their inputs must group them alike, as a quantiser that looks at the
    inputs makes them: they are ordered once for all."""
    for module, parts in modules.items():
        for first, *others in SHARED_INPUTS:
            for other in others if module.endswith(first) else ():
                name = module.removesuffix(first) + other
                theirs = modules.get(name, {}).get("g_idx")
                if theirs is None or "g_idx" not in parts or not same_bytes(parts["g_idx"], theirs):
                    raise ModelError(
                        f"{next(iter(parts.values())).file}: '{module}' and '{name}' have the same "
                        f"inputs, but group them in another order (g_idx). {WAY_OUT}"
                    )


def _is_zero(entry: TensorEntry) -> bool:
    with entry.file.open("rb") as stream:
        stream.seek(entry.offset)
        return not any(stream.read(entry.num_bytes))
