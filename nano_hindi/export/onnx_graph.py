"""Write a model as an ONNX graph with a KV cache, which ONNX Runtime executes without PyTorch on
phones, in browsers and on small CPUs.

Inputs and outputs have the names that Optimum and ONNX Runtime GenAI use. The graph consists of
standard operators, and of `com.microsoft.MatMulNBits` for weights of 8 or 4 bits. These are
quantized in blocks of a row, each with a scale of its own, round to nearest (Dettmers et al. 2022,
arXiv 2110.02861). Tied embeddings are stored once.
"""

# B batch, T new tokens, P tokens in the cache, N = P + T, C width, H query heads, G key/value
# heads, R = H/G, D head width, V vocabulary

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nano_hindi.config import GPTConfig
from nano_hindi.model import GATE_CHANNELS, RMS_EPS, ROPE_BASE, SOFTCAP

OPSET = 18
BITS = {"float32": 32, "int8": 8, "int4": 4}
MASKED = -1e9  # added to the scores of keys that a query does not see; a query of padding sees nothing, and -inf would make it NaN


def block_size(columns: int) -> int:
    """Return how many weights of a row share a scale: 32 or 16, or 0 if neither divides the row,
    which stays in float32."""
    return next((size for size in (32, 16) if columns % size == 0), 0)


def quantized(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a weight (rows, columns) in blocks of `block_size` columns.

    Returns unsigned integers (rows, blocks, columns of a block), whose zero is 2^(bits-1), and
    scales (rows, blocks). The value of the largest magnitude in a block becomes 0, the most
    negative integer, so a scale may be negative.
    """
    blocks, half = weight.reshape(len(weight), -1, block_size(weight.shape[1])), 2 ** (bits - 1)
    largest = np.take_along_axis(blocks, abs(blocks).argmax(-1, keepdims=True), -1)
    scales = largest / -half
    integers = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales != 0)
    return np.clip(np.rint(integers) + half, 0, 2 * half - 1).astype(np.uint8), scales[..., 0]


class Graph:
    """Nodes and initializers of a graph. The methods add a node and return the name of its
    output."""

    def __init__(self, bits: int):
        self.bits = bits
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def __call__(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; several outputs are returned as a list of names."""
        names = [f"{operator.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        domain = "com.microsoft" if operator == "MatMulNBits" else ""
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=names[0], domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """Return the name of an initializer with this value, which equal ones share."""
        array: np.ndarray = np.asarray(value, dtype)
        return self.stored(f"{array.dtype}_{'_'.join(map(str, array.ravel()[:8]))}_{array.shape}", array)

    def stored(self, name: str, array: np.ndarray) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def reshape(self, x: str, *shape: int) -> str:
        return self("Reshape", x, self.ints(*shape))

    def rms_norm(self, x: str) -> str:
        mean = self("ReduceMean", self("Mul", x, x), self.ints(-1))
        return self("Div", x, self("Sqrt", self("Add", mean, self.constant(RMS_EPS))))

    def _stored_blocks(self, name: str, weight: np.ndarray) -> tuple[str, str]:
        """Return the names of the integers (rows, blocks, bytes), two of 4 bits in a byte, and of
        the scales of a weight."""
        if f"{name}.integers" not in self.initializers:
            integers, scales = quantized(weight, self.bits)
            if self.bits == 4:
                integers = integers[..., ::2] | (integers[..., 1::2] << 4)
            self.stored(f"{name}.integers", integers)
            self.stored(f"{name}.scales", scales)
        return f"{name}.integers", f"{name}.scales"

    def _is_quantized(self, weight: np.ndarray) -> bool:
        return self.bits < 32 and block_size(weight.shape[1]) > 0

    def linear(self, x: str, name: str, weight: np.ndarray, is_table: bool = False) -> str:
        """Multiply x (..., n_in) by the transpose of a weight (n_out, n_in). A table's weight is
        also that of `rows`."""
        n_out, n_in = weight.shape
        if self._is_quantized(weight):
            integers, scales = self._stored_blocks(name, weight)
            # accuracy level 4: the input is quantized to int8 too, which CPUs multiply fastest
            return self("MatMulNBits", x, integers, scales, K=n_in, N=n_out, bits=self.bits, block_size=block_size(n_in), accuracy_level=4)
        if is_table:  # Gemm reads it as it is stored, but only multiplies matrices
            shape = self("Concat", self("Shape", x, start=0, end=-1), self.ints(n_out), axis=0)
            return self("Reshape", self("Gemm", self.reshape(x, -1, n_in), self.stored(name, weight), transB=1), shape)
        return self("MatMul", x, self.stored(f"{name}.T", np.ascontiguousarray(weight.T)))

    def rows(self, ids: str, name: str, table: np.ndarray) -> str:
        """Look up the rows (B, T, columns) of a table at ids (B, T)."""
        if not self._is_quantized(table):
            return self("Gather", self.stored(name, table), ids)
        integers, scales = (self("Gather", stored, ids) for stored in self._stored_blocks(name, table))
        if self.bits == 4:
            low = self("BitwiseAnd", integers, self.constant(15, np.uint8))
            high = self("BitShift", integers, self.constant(4, np.uint8), direction="RIGHT")
            last = self.ints(-1)
            integers = self.reshape(
                self("Concat", self("Unsqueeze", low, last), self("Unsqueeze", high, last), axis=-1), 0, 0, -1, block_size(table.shape[1])
            )
        values = self("Sub", self("Cast", integers, to=TensorProto.FLOAT), self.constant(2 ** (self.bits - 1)))
        return self.reshape(self("Mul", values, self("Unsqueeze", scales, self.ints(-1))), 0, 0, table.shape[1])


def build(config: GPTConfig, weights: Mapping[str, np.ndarray], dtype: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Return the model of weights under the names of `exported_weights`, in float32 or quantized,
    with `metadata` among its properties."""
    graph = Graph(BITS[dtype])
    H, G, D = config.n_head, config.n_kv_head, config.head_dim
    ids, seen, positions = "input_ids", "attention_mask", "position_ids"
    cos, sin = _rotary(graph, positions, D)
    masks = _masks(graph, ids, seen, {*config.windows})
    x0 = graph.rms_norm(graph.rows(ids, "wte", weights["model.wte.weight"]))
    if config.tokens_before:
        x0 = _with_tokens_before(graph, x0, seen, config.tokens_before, weights)
    x = x0
    for layer, window in enumerate(config.windows):
        own = {name.split(".", 3)[3].removesuffix(".weight"): w for name, w in weights.items() if name.startswith(f"model.h.{layer}.")}
        resid, first = (graph.constant(own[f"mix.{kind}_lambda"].item()) for kind in ("resid", "x0"))
        x = graph("Add", graph("Mul", x, resid), graph("Mul", x0, first))
        normed = graph.rms_norm(x)
        qkv = np.concatenate([own[f"attn.c_{part}"] for part in "qkv"])
        heads = graph.reshape(graph.linear(normed, f"{layer}.qkv", qkv), 0, 0, H + 2 * G, D)
        qk, v = graph("Split", heads, graph.ints(H + G, G), axis=2, outputs=2)
        if "attn.value_embed" in own:
            read = graph("Slice", normed, graph.ints(0), graph.ints(GATE_CHANNELS), graph.ints(-1))
            logits = graph("MatMul", read, graph.stored(f"{layer}.gate", own["attn.ve_gate"].T.copy()))
            gate = graph("Mul", graph("Sigmoid", logits), graph.constant(2))  # (B, T, G), from 0 to 2
            values = graph.reshape(graph.rows(ids, f"{layer}.value_embed", own["attn.value_embed"]), 0, 0, G, D)
            v = graph("Add", v, graph("Mul", graph("Unsqueeze", gate, graph.ints(-1)), values))
        q, k = graph("Split", graph.rms_norm(_rotated(graph, qk, cos, sin)), graph.ints(H, G), axis=2, outputs=2)
        for kind, new in (("key", k), ("value", v)):
            own_heads = graph("Transpose", new, perm=(0, 2, 1, 3))  # (B, G, T, D)
            graph.nodes.append(helper.make_node("Concat", [f"past_key_values.{layer}.{kind}", own_heads], [f"present.{layer}.{kind}"], axis=2))
        q = graph("Transpose", graph.reshape(q, 0, 0, G, H // G, D), perm=(0, 2, 3, 1, 4))  # (B, G, R, T, D)
        keys, values = (graph("Unsqueeze", f"present.{layer}.{kind}", graph.ints(2)) for kind in ("key", "value"))  # (B, G, 1, N, D)
        scores = graph("MatMul", graph("Mul", q, graph.constant(D**-0.5)), graph("Transpose", keys, perm=(0, 1, 2, 4, 3)))
        attended = graph("MatMul", graph("Softmax", graph("Add", scores, masks[window]), axis=-1), values)
        y = graph.reshape(graph("Transpose", attended, perm=(0, 3, 1, 2, 4)), 0, 0, H * D)
        x = graph("Add", x, graph.linear(y, f"{layer}.c_proj", own["attn.c_proj"]))
        hidden = graph("Relu", graph.linear(graph.rms_norm(x), f"{layer}.mlp.c_fc", own["mlp.c_fc"]))
        x = graph("Add", x, graph.linear(graph("Mul", hidden, hidden), f"{layer}.mlp.c_proj", own["mlp.c_proj"]))
    head = ("wte", weights["model.wte.weight"]) if config.tie_embeddings else ("lm_head", weights["lm_head.weight"])
    capped = graph("Tanh", graph("Div", graph.linear(graph.rms_norm(x), *head, is_table=config.tie_embeddings), graph.constant(SOFTCAP)))
    graph.nodes.append(helper.make_node("Mul", [capped, graph.constant(SOFTCAP)], ["logits"]))
    return _model(config, graph, dtype, metadata)


def _with_tokens_before(graph: Graph, x: str, seen: str, n: int, weights: Mapping[str, np.ndarray]) -> str:
    """Add to embeddings x (B, T, C) what smear and convolution take from the n tokens before, as
    GPT.add_tokens_before does.

    The cache also has the embeddings of the last tokens: (B, 1, 0 to n, C) in the input, and in the
    output (B, 1, n, C), 0 before the text.
    """
    last = graph.ints(-1)
    begin = graph("Neg", graph("Add", graph("Shape", x, start=1, end=2), graph.ints(n)))  # of the last T + n
    known = graph("Concat", graph("Squeeze", "past_key_values.embeddings", graph.ints(1)), x, axis=1)
    embeddings = graph("Slice", graph("Pad", known, graph.ints(0, n, 0, 0, 0, 0)), begin, graph.ints(2**62), graph.ints(1))
    padded = graph("Pad", graph("Cast", seen, to=TensorProto.FLOAT), graph.ints(0, n, 0, 0))
    is_text = graph("Unsqueeze", graph("Slice", padded, begin, graph.ints(2**62), last), last)
    text = graph("Mul", embeddings, is_text)
    newest = graph("Slice", text, graph.ints(-n), graph.ints(2**62), graph.ints(1))
    graph.nodes.append(helper.make_node("Unsqueeze", [newest, graph.ints(1)], ["present.embeddings"]))
    before = [graph("Slice", text, graph.ints(n - back), graph.ints(-back), graph.ints(1)) for back in range(1, n + 1)]
    y = x
    if (gate := weights.get("model.smear.gate.weight")) is not None:
        read = graph("Slice", x, graph.ints(0), graph.ints(GATE_CHANNELS), last)
        factor = graph("Tanh", graph("MatMul", read, graph.stored("smear.gate", gate.T.copy())))
        y = graph("Add", y, graph("Mul", factor, before[0]))
    for back, weight in enumerate(weights.get("model.conv.weight", ())):
        y = graph("Add", y, graph("Mul", graph.stored(f"conv.{back}", weight), before[back]))
    return y


def _rotary(graph: Graph, positions: str, head_dim: int) -> tuple[str, str]:
    """Return cos and sin (B, T, 1, D/2) of the rotary angles, as model.rope_factors computes
    them."""
    frequencies = np.float32(ROPE_BASE) ** (-np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
    angles = graph(
        "Mul", graph("Unsqueeze", graph("Cast", positions, to=TensorProto.FLOAT), graph.ints(2, 3)), graph.stored("frequencies", frequencies)
    )
    return graph("Cos", angles), graph("Sin", angles)


def _rotated(graph: Graph, x: str, cos: str, sin: str) -> str:
    """Rotate x (B, T, heads, D) as model.apply_rope does."""
    first, second = graph("Split", x, axis=-1, outputs=2, num_outputs=2)
    turned = (
        graph("Sub", graph("Mul", first, cos), graph("Mul", second, sin)),
        graph("Add", graph("Mul", first, sin), graph("Mul", second, cos)),
    )
    return graph("Concat", *turned, axis=-1)


def _masks(graph: Graph, ids: str, seen: str, windows: set[int]) -> dict[int, str]:
    """Return for each window what to add to the scores (B, G, R, T, N).

    Distances are those of the slots, so a caller may drop the oldest keys of the cache.
    """
    slots = graph("Range", graph.constant(0, np.int64), graph("Squeeze", graph("Shape", seen, start=1)), graph.constant(1, np.int64))
    queries = graph("Slice", slots, graph("Neg", graph("Shape", ids, start=1)), graph.ints(2**62))  # the last T
    distance = graph("Sub", graph("Unsqueeze", queries, graph.ints(1)), slots)  # (T, N)
    is_text = graph("Unsqueeze", graph("Cast", seen, to=TensorProto.BOOL), graph.ints(1, 2, 3))  # (B, 1, 1, 1, N)
    is_past = graph("GreaterOrEqual", distance, graph.constant(0, np.int64))
    masks = {}
    for window in windows:
        is_near = graph("And", is_past, graph("Less", distance, graph.constant(window, np.int64)))
        masks[window] = graph("Where", graph("And", is_near, is_text), graph.constant(0), graph.constant(MASKED))
    return masks


def _model(config: GPTConfig, graph: Graph, dtype: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
    def value(name: str, elements: int, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, elements, shape)

    def cache(name: str, length: str, last: str | int) -> list[onnx.ValueInfoProto]:
        shape = ("batch_size", config.n_kv_head, length, config.head_dim)
        heads = [value(f"{name}.{layer}.{kind}", TensorProto.FLOAT, *shape) for layer in range(config.n_layer) for kind in ("key", "value")]
        return heads + [value(f"{name}.embeddings", TensorProto.FLOAT, "batch_size", 1, last, config.n_embd)] * (config.tokens_before > 0)

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "nano_hindi",
            [
                value("input_ids", TensorProto.INT64, "batch_size", "sequence_length"),
                value("attention_mask", TensorProto.INT64, "batch_size", "total_sequence_length"),
                value("position_ids", TensorProto.INT64, "batch_size", "sequence_length"),
                *cache("past_key_values", "past_sequence_length", "last_tokens"),
            ],
            [
                value("logits", TensorProto.FLOAT, "batch_size", "sequence_length", config.vocab_size),
                *cache("present", "total_sequence_length", config.tokens_before),
            ],
            list(graph.initializers.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)],
        ir_version=9,
        producer_name="nano_hindi",
    )
    helper.set_model_props(model, {"dtype": dtype, "context": str(config.sequence_len), **metadata})
    return model
