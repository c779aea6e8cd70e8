// A model's weights in one block of memory, packed as the kernels read them.
#pragma once
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "pool.h"

struct ModelShape {
  int vocab_size, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim;
  int tied, attention_bias, attention_output_bias, mlp_bias, qk_norm;
  float rms_norm_eps;
  int bits;  // of a weight: 32 (float), 8, or 4 (embedding and head: 8)

  int query_size() const { return num_heads * head_dim; }
  int kv_size() const { return num_kv_heads * head_dim; }
  bool quantized() const { return bits < 32; }
};

// Anonymous memory that the system fills with zeros as it is touched.
class Memory {
 public:
  Memory() = default;
  Memory(size_t bytes, bool huge);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

// A matrix of n rows and k columns as tiles of 16 rows (kernels.h), at `offset` of the image.
struct Matrix {
  size_t offset = 0;
  int n = 0, k = 0, tiles = 0;
  bool nibbles = false;  // 8-bit values stored in 4 (kernels.h)

  size_t tile_bytes(bool quantized) const;
};

constexpr size_t kAbsent = ~(size_t)0;

struct LayerMap {
  Matrix qkv, o, gate_up, down;  // rows of gate and up alternate in tiles of 16
  size_t attention_norm, mlp_norm, query_norm = kAbsent, key_norm = kAbsent;  // of heads: the latter two
  size_t qkv_bias = kAbsent, o_bias = kAbsent, gate_up_bias = kAbsent, down_bias = kAbsent;
};

// Where everything lies: a function of the shape, and of which matrices are stored in 4 bits. They are numbered embedding,
// head, then qkv, o, gate_up and down of each layer; those beyond the end of `nibbles` are not.
struct ImageMap {
  explicit ImageMap(const ModelShape&, std::vector<uint8_t> nibbles = {});
  std::vector<const Matrix*> matrices() const;  // in that order, without a tied head
  std::vector<LayerMap> layers;
  Matrix embedding, head;
  size_t norm, bytes = 0;
  std::vector<uint8_t> nibbles;

 private:
  Matrix place_matrix(const ModelShape&, size_t index, int n, int k);
  size_t place_vector(int n);
};

class Weights {
 public:
  Weights(const ModelShape& shape, int threads);

  // Quantises and packs one tensor under its Hugging Face name. Throws std::invalid_argument for an unknown name, a
  // second time, a wrong shape, and values that are not finite or beyond half precision.
  void add(const std::string& name, const float* data, const std::vector<size_t>& shape);
  std::vector<std::string> missing() const;
  // After the last tensor: moves matrices whose values all fit in 4 bits to their smaller form. Nothing else changes.
  void finish();

  // The image file: written beside `path`, synced, renamed over it. `key` names what it was made from.
  void save(const std::string& path, const std::string& key) const;
  // Throws std::runtime_error for a file of another format, shape or key, or a damaged one.
  static std::unique_ptr<Weights> load(const std::string& path, const std::string& key, const ModelShape&, int threads);

  const ModelShape shape;
  ImageMap map;
  const char* at(size_t offset) const { return memory_.data() + offset; }
  const float* vector(size_t offset) const { return offset == kAbsent ? nullptr : (const float*)at(offset); }
  void embed(int id, float* out) const;  // one row of the embedding

 private:
  struct Target {  // where one tensor goes: rows of a matrix, or a vector
    const Matrix* matrix;
    int first_row, row_step_tiles;
    size_t vector;
    int rows, columns;  // columns 0: a vector
  };
  bool find(const std::string& name, Target& target) const;
  void pack_rows(const Target&, const float* data, int from, int to, bool& good);
  bool fits_nibbles(const Matrix&) const;
  uint64_t digest() const;

  Memory memory_;
  std::set<std::string> added_;
  mutable Pool pool_;
};

// One group of 32 values as q * scale + min with q in 0..255, or 0..15 with 4 bits, both in half precision: exactly where
// that is possible. False if they cannot hold it.
bool fit_group(const float* x, int bits, uint8_t* q, uint16_t* scale, uint16_t* low);
