#include "cache.h"

KvCache::KvCache(const ModelShape& s, bool integers, int num_blocks, int block_size)
    : heads_(s.num_kv_heads), layers_(s.num_layers), block_size_(block_size), head_dim_(s.head_dim), integers_(integers),
      head_bytes_(kv_block_bytes(integers, block_size, s.head_dim)),
      memory_(head_bytes_ * num_blocks * heads_ * layers_, true) {}

KvHead KvCache::head(int layer, int kv_head) const {
  // All layers of a block lie together: memory is touched, and grows, block by block.
  return {memory_.data() + ((long)layer * heads_ + kv_head) * head_bytes_, block_bytes(), block_size_, head_dim_, integers_};
}

static void write_floats(const KvHead& kv, char* block, int offset, const float* key, const float* value) {
  const int d = kv.head_dim, width = round_up(d, kLanes);
  float* keys = (float*)block + (long)(offset / kLanes * kLanes) * d + offset % kLanes;
  float* values = (float*)block + (long)kv.block_size * d + (long)offset * width;
  for (int i = 0; i < d; i++) keys[i * kLanes] = key[i], values[i] = value[i];
}

static void write_integers(const Kernels& kernels, const KvHead& kv, char* block, int offset, const float* key,
                           const float* value) {
  const int d = kv.head_dim, width = round_up(d, kLanes), lane = offset % kLanes;
  int8_t *keys = (int8_t*)block + (offset - lane) * d + lane * 2, *values = (int8_t*)block + (long)kv.block_size * d;
  float* scales = (float*)(values + (long)kv.block_size * width) + offset;
  int16_t words[kMaxHeadDim];
  scales[0] = kernels.round_row(key, width, kCacheLimit, words);
  for (int i = 0; i < d; i++) keys[i / 2 * kLanes * 2 + i % 2] = (int8_t)words[i];
  scales[kv.block_size] = kernels.round_row(value, width, kCacheLimit, words);
  values += (long)(offset - lane) * width + lane / 2 * kLanes * 2 + lane % 2;
  for (int i = 0; i < width; i++) values[i / kLanes * kLanes * kLanes + i % kLanes * 2] = (int8_t)words[i];
}

void KvCache::write(const Kernels& kernels, int layer, int kv_head, int slot, const float* key,
                    const float* value) const {
  const KvHead kv = head(layer, kv_head);
  char* block = kv.base + slot / kv.block_size * kv.block_stride;
  kv.integers ? write_integers(kernels, kv, block, slot % kv.block_size, key, value)
              : write_floats(kv, block, slot % kv.block_size, key, value);
}
