"""The oracle: a Llama forward pass in NumPy float32 over a paged cache. Slow and obvious.

Every other runner is held against this one. The invariant: each row of a matrix product is computed
by itself, so a token's numbers do not depend on which tokens share its step.
"""

from collections.abc import Mapping

import numpy as np

from llamastream.config import LlamaConfig
from llamastream.engine.reference_sampler import sample
from llamastream.engine.rope import rope_tables
from llamastream.engine.runner import Float32, ForwardBatch, Int32, Runner, StepResult


class ReferenceRunner(Runner):
    """`tensors` have Hugging Face names; values are float32."""

    def __init__(
        self,
        config: LlamaConfig,
        tensors: Mapping[str, Float32],
        *,
        num_blocks: int,
        block_size: int,
        max_model_len: int | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_model_len = max_model_len or config.max_position_embeddings
        self.vocab_size = config.vocab_size
        self._config = config
        self._tensors = dict(tensors)
        if config.tie_word_embeddings:
            self._tensors["lm_head.weight"] = self._tensors["model.embed_tokens.weight"]
        self._cos, self._sin = rope_tables(config, self.max_model_len)
        num_slots = num_blocks * block_size
        shape = (config.num_hidden_layers, num_slots, config.num_key_value_heads, config.head_dim)
        self._keys: Float32 = np.zeros(shape, np.float32)  # (L, N * P, K, D)
        self._values: Float32 = np.zeros(shape, np.float32)

    def run(self, batch: ForwardBatch) -> StepResult:
        x = self._tensors["model.embed_tokens.weight"][batch.token_ids]  # (T, hidden_size)
        for layer in range(self._config.num_hidden_layers):
            name = f"model.layers.{layer}"
            x = x + self._attention(layer, self._norm(f"{name}.input_layernorm", x), batch)
            x = x + self._mlp(name, self._norm(f"{name}.post_attention_layernorm", x))
        x = self._norm("model.norm", x[batch.logits_indices])
        logits = self._linear("lm_head", x)  # (R, V)
        return sample(logits, batch.sampling, return_logits=batch.return_logits)

    def close(self) -> None:
        self._tensors.clear()
        self._keys = self._values = np.empty(0, np.float32)

    def _attention(self, layer: int, x: Float32, batch: ForwardBatch) -> Float32:
        name, dim = f"model.layers.{layer}.self_attn", self._config.head_dim
        query = self._linear(f"{name}.q_proj", x).reshape(len(x), -1, dim)  # (T, H, D)
        key = self._linear(f"{name}.k_proj", x).reshape(len(x), -1, dim)  # (T, K, D)
        if self._config.qk_norm:
            query, key = self._norm(f"{name}.q_norm", query), self._norm(f"{name}.k_norm", key)
        value = self._linear(f"{name}.v_proj", x).reshape(len(x), -1, dim)
        self._keys[layer, batch.slot_mapping] = self._rotate(key, batch.positions)
        self._values[layer, batch.slot_mapping] = value
        query = self._rotate(query, batch.positions)
        out = np.empty_like(query)
        for s in range(len(batch.context_lens)):
            slots = self._slots(batch.block_tables[s], int(batch.context_lens[s]))
            for t in range(batch.cu_seqlens_q[s], batch.cu_seqlens_q[s + 1]):
                visible = slots[: batch.positions[t] + 1]
                out[t] = self._attend(
                    query[t], self._keys[layer, visible], self._values[layer, visible]
                )
        return self._linear(f"{name}.o_proj", out.reshape(len(x), -1))

    def _attend(self, query: Float32, keys: Float32, values: Float32) -> Float32:
        """One token over its context. query: (H, D); keys, values: (C, K, D). Returns (H, D)."""
        num_groups = len(query) // keys.shape[1]
        out = np.empty_like(query)
        for head in range(len(query)):
            kv_head = head // num_groups
            scores = keys[:, kv_head] @ query[head] / np.sqrt(np.float32(query.shape[1]))  # (C,)
            weights = np.exp(scores - scores.max())
            out[head] = weights / weights.sum() @ values[:, kv_head]
        return out

    def _mlp(self, name: str, x: Float32) -> Float32:
        gate = self._linear(f"{name}.mlp.gate_proj", x)
        up = self._linear(f"{name}.mlp.up_proj", x)
        silu = gate / (1 + np.exp(-gate))
        return self._linear(f"{name}.mlp.down_proj", silu * up)

    def _norm(self, name: str, x: Float32) -> Float32:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        eps = np.float32(self._config.rms_norm_eps)
        y: Float32 = self._tensors[f"{name}.weight"] * (x / np.sqrt(mean_square + eps))
        return y

    def _linear(self, name: str, x: Float32) -> Float32:
        """x: (T, in) -> (T, out), plus the bias if the checkpoint has one."""
        weight, bias = self._tensors[f"{name}.weight"], self._tensors.get(f"{name}.bias")
        y: Float32 = np.matmul(x[:, None, :], weight.T)[:, 0, :]  # T products of one row each
        return y if bias is None else y + bias

    def _rotate(self, x: Float32, positions: Int32) -> Float32:
        """Rotate the pairs (i, i + D / 2) of each head. x: (T, heads, D)."""
        cos, sin = self._cos[positions][:, None, :], self._sin[positions][:, None, :]
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _slots(self, block_table: Int32, context_len: int) -> Int32:
        """Where the tokens of a sequence lie in the cache, by position."""
        positions = np.arange(context_len)
        blocks = block_table[positions // self.block_size]
        slots: Int32 = blocks * self.block_size + positions % self.block_size
        return slots
