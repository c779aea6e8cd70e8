// The paged cache of keys and values: where they lie, and how they are put there.
#pragma once
#include "kernels.h"
#include "weights.h"

// What of the model's shape the forward pass cannot see in its tensors.
struct ModelShape {
  int vocab_size, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim;
  float rms_norm_eps;

  int query_size() const { return num_heads * head_dim; }
  int kv_size() const { return num_kv_heads * head_dim; }
  int group() const { return num_heads / num_kv_heads; }  // query heads of one kv head
};

class KvCache {
 public:
  KvCache(const ModelShape&, bool integers, int num_blocks, int block_size);

  KvHead head(int layer, int kv_head) const;
  long head_bytes() const { return head_bytes_; }
  long block_bytes() const { return head_bytes_ * heads_ * layers_; }
  char* block(int index) const { return memory_.data() + block_bytes() * index; }  // of all layers and heads
  // key, value: one head's, padded to 16 with zeros.
  void write(const Kernels&, int layer, int kv_head, int slot, const float* key, const float* value) const;

 private:
  int heads_, layers_, block_size_, head_dim_;
  bool integers_;
  long head_bytes_;
  Memory memory_;
};
