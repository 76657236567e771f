"""Transformers and packed directories into GGUF files: the inverse of `strop.models.convert`.

Names, shapes and the order of rows are those that the reader expects, from its own tables. Whatever
a model has that GGUF, or our reader, has no words for is an error.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType, quants
from numpy.typing import NDArray

from strop.console import progress, say
from strop.errors import StropError
from strop.models.architecture import FAMILIES, rotary_layers
from strop.models.architecture import Architecture as Decoder
from strop.models.config_fields import Fields
from strop.models.convert import expected_tensors, permuted_heads, rotary_order
from strop.models.gguf_config import ARCHITECTURES, LLAMA3_SCALING, SIZES
from strop.models.gguf_file import block_layout
from strop.models.gguf_vocabulary import tokenizer_metadata
from strop.models.merging import Plain, open_plain
from strop.models.tokenizer import Tokenizer

#: Element types of matrices that are written, and what a file of them is called.
FILE_TYPES = {"F16": LlamaFileType.MOSTLY_F16, "Q8_0": LlamaFileType.MOSTLY_Q8_0}
LARGEST_F16 = 65504.0
QUANTIZATION_VERSION = 2  #: of ggml's block formats

#: model_type -> GGUF's architecture
NAMES = {name: name for name in ARCHITECTURES} | {"mistral": "llama"}

#: Options of YaRN that GGUF has no keys for, or our reader none.
UNWRITTEN_YARN = ("attention_factor", "mscale", "mscale_all_dim", "truncate")

VALUE_TYPES = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
    list: GGUFValueType.ARRAY,
}


class Writer(GGUFWriter):  # type: ignore[misc]
    """A GGUF writer that writes empty lists, too: the merges of a tokenizer that has none."""

    def _pack_val(self, val: Any, vtype: Any, add_vtype: bool, sub_type: Any = None) -> bytes:
        if vtype == GGUFValueType.ARRAY and len(val) == 0:
            return struct.pack("<IIQ", vtype, GGUFValueType.STRING, 0)
        packed: bytes = super()._pack_val(val, vtype, add_vtype, sub_type)
        return packed


def write_gguf(directory: Path, path: Path, kind: str, name: str) -> None:
    """Write a model as GGUF, its matrices as `kind` ("F16" or "Q8_0") and its vectors as F32.

    `name` is what the file calls the model. Raises StropError for an architecture, an option of one
    or a tokenizer that cannot be written, and for weights that are not finite.
    """
    plain = open_plain(directory)
    where = str(directory / "config.json")
    fields = Fields(where, plain.checkpoint.config)
    rope, divisors = rope_metadata(fields)
    architecture, config = read_model(plain, fields)
    tokenizer = Tokenizer.from_directory(directory)
    vocabulary = tokenizer_metadata(tokenizer, config["vocab_size"], str(directory))
    expected = expected_tensors(ARCHITECTURES[architecture], config)
    check_tensors(plain, expected)
    writer = Writer(path, architecture)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(QUANTIZATION_VERSION)
    model = {f"{architecture}.{key}": one for key, one in (sizes(config) | rope).items()}
    for key, value in (model | vocabulary).items():
        writer.add_key_value(key, value, VALUE_TYPES[type(value)])
    heads = permuted_heads(ARCHITECTURES[architecture], config)
    try:
        write_tensors(writer, plain, expected, heads, kind, divisors)
    finally:
        writer.close()


def read_model(plain: Plain, fields: Fields) -> tuple[str, dict[str, Any]]:
    """Return GGUF's architecture and the config.json that its reader would make.

    Raises StropError for what would be lost.
    """
    kind = model_type(fields)
    if (activation := fields.get("hidden_act", "silu")) != "silu":
        raise cannot(fields, f"the activation {activation!r:.40}")
    # The engine has no biases in the MLP; GGUF has.
    decoder = Decoder.parse(dict(fields.values) | {"mlp_bias": False}, fields.where)
    if any(0 < window < decoder.context for window in decoder.windows):
        raise cannot(fields, "a sliding window")
    if decoder.rotary != rotary_layers(Fields(fields.where, {}), FAMILIES[kind], decoder.layers):
        raise cannot(fields, "an unusual choice of layers without rotary embedding")
    return NAMES[kind], {
        "hidden_size": decoder.hidden,
        "intermediate_size": decoder.inner,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "max_position_embeddings": decoder.context,
        "vocab_size": decoder.vocabulary,
        "rms_norm_eps": decoder.norm_epsilon,
        # A head that is there counts, whatever the configuration says, as in transformers.
        "tie_word_embeddings": decoder.tied and "lm_head.weight" not in plain.layout,
        "attention_bias": decoder.output_bias,
        "mlp_bias": FAMILIES[kind].mlp_bias and fields.flag("mlp_bias", False),
    }


def model_type(fields: Fields) -> str:
    """Return the model_type of a config.json; StropError for one that cannot be written."""
    kind = fields.values.get("model_type")
    if not isinstance(kind, str) or kind not in NAMES:
        raise cannot(fields, f"models of type {kind!r:.40}, only {', '.join(NAMES)}")
    return kind


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a configuration, without the architecture's name in front."""
    return {tail: config[key] for key, tail in SIZES.items()} | {
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.dimension_count": config["head_dim"],
        "vocab_size": config["vocab_size"],
    }


def rope_metadata(fields: Fields) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """Return the metadata of the rotary embedding, and the divisors of its frequencies if any.

    Raises StropError for what GGUF cannot say, or our reader would not understand.
    """
    theta = FAMILIES[model_type(fields)].theta
    rope = fields.object("rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters")
    theta = rope.number("rope_theta", fields.number("rope_theta", theta))
    found: dict[str, Any] = {"rope.freq_base": theta}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "yarn", "llama3"):
        raise cannot(fields, f"rotary embeddings of type {kind!r:.40}")
    if kind in ("default", "llama3"):
        return found, llama3_divisors(fields, rope, theta) if kind == "llama3" else None
    found |= {"rope.scaling.type": kind, "rope.scaling.factor": rope.number("factor")}
    if kind == "yarn":
        odd = [key for key in UNWRITTEN_YARN if rope.values.get(key) is not None]
        if odd:
            raise cannot(fields, f"YaRN with {', '.join(odd)}")
        found["rope.scaling.original_context_length"] = trained_context(fields, rope)
        for key in ("beta_fast", "beta_slow"):
            if rope.values.get(key) is not None:
                found[f"rope.scaling.yarn_{key}"] = rope.number(key)
    return found, None


def trained_context(fields: Fields, rope: Fields) -> int:
    """Return the context length before it was stretched."""
    key = "original_max_position_embeddings"
    whole = fields.whole("max_position_embeddings")
    return fields.whole(key, rope.whole(key, whole))


def llama3_divisors(fields: Fields, rope: Fields, theta: float) -> NDArray[np.float32]:
    """Return what Llama 3 divides each frequency by."""
    given = (rope.number("low_freq_factor"), rope.number("high_freq_factor"))
    if (*given, trained_context(fields, rope)) != LLAMA3_SCALING:
        raise cannot(fields, "a rotary embedding with other factors than Llama 3's")
    frequencies = Decoder.parse(dict(fields.values) | {"mlp_bias": False}, fields.where).rope
    slowed = np.array(frequencies.frequencies)
    plain = theta ** (-np.arange(len(slowed)) / len(slowed))
    divisors: NDArray[np.float64] = plain / slowed
    return divisors.astype(np.float32)


def check_tensors(plain: Plain, expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raise StropError unless a model has exactly the tensors that are expected."""
    shapes = {name: shape for name, (_, shape) in plain.layout.items()}
    for name, shape in expected.values():
        if name not in shapes:
            raise plain.error(f"no tensor named {name}")
        if shapes[name] != shape:
            raise plain.error(f"{name} is {shapes[name]}, config.json asks for {shape}")
    known = {name for name, _ in expected.values()}
    # Older checkpoints hold the frequencies, which follow from the configuration.
    others = [name for name in shapes if name not in known and "rotary_emb" not in name]
    if others:
        raise plain.error(f"tensors that GGUF has no name for, such as {others[0]}")


def write_tensors(
    writer: Writer,
    plain: Plain,
    expected: Mapping[str, tuple[str, tuple[int, ...]]],
    heads: Mapping[str, int],
    kind: str,
    divisors: NDArray[np.float32] | None,
) -> None:
    """Write the header and all tensors, one at a time."""
    kinds = {name: stored_kind(shape, kind) for name, (_, shape) in expected.items()}
    if other := sorted(name for name, one in kinds.items() if one not in (kind, "F32")):
        say(f"F16 instead of {kind}, as their rows are not whole blocks: {', '.join(other)}")
    for name, (_, shape) in expected.items():
        add_info(writer, name, shape, kinds[name])
    if divisors is not None:
        add_info(writer, "rope_freqs.weight", divisors.shape, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(math.prod(shape) for _, shape in expected.values())
    with progress(f"writing GGUF as {kind}", total, "weights") as advance:
        for name, (source, shape) in expected.items():
            values = plain.read(source)
            if (count := heads.get(name.split(".")[-2])) is not None:
                values = values[np.argsort(rotary_order(len(values), count))]
            writer.write_tensor_data(encoded(plain, source, values, kinds[name]))
            advance(math.prod(shape))
    if divisors is not None:
        writer.write_tensor_data(divisors)


def stored_kind(shape: tuple[int, ...], kind: str) -> str:
    """Return the element type of a tensor: vectors stay F32, rows must be whole blocks."""
    if len(shape) == 1:
        return "F32"
    return "F16" if shape[-1] % block_layout(kind)[0] else kind


def add_info(writer: Writer, name: str, shape: tuple[int, ...], kind: str) -> None:
    """Announce a tensor."""
    elements, width = block_layout(kind)
    size = math.prod(shape) // elements * width
    raw = GGMLQuantizationType[kind]
    writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=raw)


def encoded(
    plain: Plain, name: str, values: NDArray[np.float32], kind: str
) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Return the bytes of a tensor. Raises StropError for values that the type does not hold."""
    if not np.isfinite(values).all():
        raise plain.error(f"{name} holds NaN or infinity")
    if kind == "F16" and np.abs(values).max() > LARGEST_F16:
        raise plain.error(f"{name} holds values above {LARGEST_F16:g}, which F16 does not")
    result: NDArray[Any] = quants.quantize(values, GGMLQuantizationType[kind])
    return result


def cannot(fields: Fields, what: str) -> StropError:
    """Build the error for what cannot be written."""
    return StropError(f"{fields.where}: GGUF files are not written for {what}")
