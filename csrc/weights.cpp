#include "weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "half.h"
#include "kernels.h"

Memory::Memory(size_t bytes, bool huge) : size_(bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::runtime_error("out of memory: " + std::to_string(bytes) + " bytes");
  data_ = (char*)p;
#ifdef MADV_HUGEPAGE
  if (huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
}

Memory::~Memory() {
  if (data_) munmap(data_, size_);
}

Memory::Memory(Memory&& other) noexcept { *this = std::move(other); }

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

size_t Matrix::tile_bytes(bool quantized) const {
  return quantized ? (size_t)k / kGroup * ::tile_bytes(nibbles) : (size_t)k * kLanes * sizeof(float);
}

Matrix ImageMap::place_matrix(const ModelShape& shape, size_t index, int n, int k) {
  Matrix m{bytes, n, k, round_up(n, kLanes) / kLanes, index < nibbles.size() && nibbles[index]};
  bytes += m.tiles * m.tile_bytes(shape.quantized());
  return m;
}

size_t ImageMap::place_vector(int n) {
  const size_t at = bytes;
  bytes += round_up(n, kLanes) * sizeof(float);
  return at;
}

ImageMap::ImageMap(const ModelShape& s, std::vector<uint8_t> in_nibbles) : nibbles(std::move(in_nibbles)) {
  const int gate_up = 2 * round_up(s.intermediate_size, kLanes), qkv = s.query_size() + 2 * s.kv_size();
  embedding = place_matrix(s, 0, s.vocab_size, s.hidden_size);
  head = s.tied ? embedding : place_matrix(s, 1, s.vocab_size, s.hidden_size);
  norm = place_vector(s.hidden_size);
  for (int i = 0; i < s.num_layers; i++) {
    LayerMap l;
    l.attention_norm = place_vector(s.hidden_size);
    l.qkv = place_matrix(s, 4 * i + 2, qkv, s.hidden_size);
    l.o = place_matrix(s, 4 * i + 3, s.hidden_size, s.query_size());
    l.mlp_norm = place_vector(s.hidden_size);
    l.gate_up = place_matrix(s, 4 * i + 4, gate_up, s.hidden_size);
    l.down = place_matrix(s, 4 * i + 5, s.hidden_size, s.intermediate_size);
    if (s.qk_norm) l.query_norm = place_vector(s.head_dim), l.key_norm = place_vector(s.head_dim);
    if (s.attention_bias) l.qkv_bias = place_vector(qkv);
    if (s.attention_output_bias) l.o_bias = place_vector(s.hidden_size);
    if (s.mlp_bias) l.gate_up_bias = place_vector(gate_up), l.down_bias = place_vector(s.hidden_size);
    layers.push_back(l);
  }
}

std::vector<const Matrix*> ImageMap::matrices() const {
  std::vector<const Matrix*> all{&embedding, head.offset == embedding.offset ? nullptr : &head};
  for (const LayerMap& l : layers) all.insert(all.end(), {&l.qkv, &l.o, &l.gate_up, &l.down});
  return all;
}

Weights::Weights(const ModelShape& s, int threads) : shape(s), map(s), memory_(map.bytes, true), pool_(threads) {}

bool Weights::find(const std::string& name, Target& t) const {
  const ModelShape& s = shape;
  auto matrix = [&](const Matrix& m, int rows, int first = 0, int step = 1) {
    t = {&m, first, step, 0, rows, m.k};
    return true;
  };
  auto vector = [&](size_t at, int rows, int first = 0, int step = 1) {
    t = {nullptr, first, step, at, rows, 0};
    return at != kAbsent;
  };
  if (name == "model.embed_tokens.weight") return matrix(map.embedding, s.vocab_size);
  if (name == "lm_head.weight") return !s.tied && matrix(map.head, s.vocab_size);
  if (name == "model.norm.weight") return vector(map.norm, s.hidden_size);
  const std::string prefix = "model.layers.";
  if (name.compare(0, prefix.size(), prefix)) return false;
  const size_t dot = name.find('.', prefix.size());
  const std::string number = name.substr(prefix.size(), dot - prefix.size());
  if (dot == std::string::npos || number.empty() || number.size() > 5 ||
      !std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; }) ||
      std::stoi(number) >= s.num_layers)
    return false;
  const LayerMap& l = map.layers[std::stoi(number)];
  const std::string part = name.substr(dot + 1);
  const int q = s.query_size(), kv = s.kv_size(), mid = s.intermediate_size, hidden = s.hidden_size;
  if (part == "input_layernorm.weight") return vector(l.attention_norm, hidden);
  if (part == "post_attention_layernorm.weight") return vector(l.mlp_norm, hidden);
  if (part == "self_attn.q_norm.weight") return vector(l.query_norm, s.head_dim);
  if (part == "self_attn.k_norm.weight") return vector(l.key_norm, s.head_dim);
  if (part == "self_attn.q_proj.weight") return matrix(l.qkv, q);
  if (part == "self_attn.k_proj.weight") return matrix(l.qkv, kv, q);
  if (part == "self_attn.v_proj.weight") return matrix(l.qkv, kv, q + kv);
  if (part == "self_attn.o_proj.weight") return matrix(l.o, hidden);
  if (part == "mlp.gate_proj.weight") return matrix(l.gate_up, mid, 0, 2);
  if (part == "mlp.up_proj.weight") return matrix(l.gate_up, mid, kLanes, 2);
  if (part == "mlp.down_proj.weight") return matrix(l.down, hidden);
  if (part == "self_attn.q_proj.bias") return vector(l.qkv_bias, q);
  if (part == "self_attn.k_proj.bias") return vector(l.qkv_bias, kv, q);
  if (part == "self_attn.v_proj.bias") return vector(l.qkv_bias, kv, q + kv);
  if (part == "self_attn.o_proj.bias") return vector(l.o_bias, hidden);
  if (part == "mlp.gate_proj.bias") return vector(l.gate_up_bias, mid, 0, 2);
  if (part == "mlp.up_proj.bias") return vector(l.gate_up_bias, mid, kLanes, 2);
  if (part == "mlp.down_proj.bias") return vector(l.down_bias, hidden);
  return false;
}

// The row of the packed matrix that holds row i of the tensor: step 2 leaves every other tile of 16 out.
static int packed_row(int i, int first, int step) { return first + i / kLanes * step * kLanes + i % kLanes; }

void Weights::pack_rows(const Target& t, const float* data, int from, int to, bool& good) {
  char* base = memory_.data();
  const int bits = t.matrix == &map.embedding || t.matrix == &map.head ? 8 : shape.bits;
  for (int i = from; i < to; i++) {
    const int row = packed_row(i, t.first_row, t.row_step_tiles), lane = row % kLanes;
    const float* x = data + (size_t)i * std::max(t.columns, 1);
    if (!t.columns || !shape.quantized())
      for (int c = 0; c < std::max(t.columns, 1); c++) good &= std::isfinite(x[c]);
    if (!t.columns) {
      ((float*)(base + t.vector))[row] = *x;
    } else if (!shape.quantized()) {
      float* tile = (float*)(base + t.matrix->offset) + (size_t)(row / kLanes) * t.columns * kLanes;
      for (int c = 0; c < t.columns; c++) tile[(size_t)c * kLanes + lane] = x[c];
    } else {
      uint8_t* tile = (uint8_t*)base + t.matrix->offset + (row / kLanes) * t.matrix->tile_bytes(true);
      for (int g = 0; g < t.columns; g += kGroup, tile += tile_bytes(false)) {
        uint8_t q[kGroup];
        uint16_t* half = (uint16_t*)(tile + kLanes * kGroup) + lane;
        good &= fit_group(x + g, bits, q, half, half + kLanes);
        for (int k = 0; k < kGroup; k += 4) std::memcpy(tile + (k / 4 * kLanes + lane) * 4, q + k, 4);
      }
    }
  }
}

static std::string show(const std::vector<size_t>& shape) {
  std::string text = "(";
  for (size_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + ")";
}

void Weights::add(const std::string& name, const float* data, const std::vector<size_t>& given) {
  Target t;
  if (!find(name, t)) throw std::invalid_argument("Tensor " + name + " does not belong to this model.");
  std::vector<size_t> wanted{(size_t)t.rows};
  if (t.columns) wanted.push_back(t.columns);
  if (given != wanted)
    throw std::invalid_argument("Tensor " + name + " must have shape " + show(wanted) + ". Given: " + show(given) +
                                ".");
  if (!added_.insert(name).second) throw std::invalid_argument("Tensor " + name + " was given twice.");
  std::vector<char> good(pool_.size(), true);
  Stage stage;
  constexpr int kRows = 64;
  pool_.run([&](int thread) {
    bool all = true;
    stage.run((t.rows + kRows - 1) / kRows,
              [&](int i) { pack_rows(t, data, i * kRows, std::min(i * kRows + kRows, t.rows), all); });
    good[thread] = all;
  });
  if (std::find(good.begin(), good.end(), false) != good.end())
    throw std::invalid_argument("Tensor " + name + " holds NaN, infinity or values over 65504.");
}

std::vector<std::string> Weights::missing() const {
  std::vector<std::string> names{"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}, absent;
  for (int i = 0; i < shape.num_layers; i++) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    for (const char* part : {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_norm.weight",
                             "self_attn.k_norm.weight"})
      names.push_back(layer + part);
    for (const char* part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
      names.push_back(layer + part + ".weight"), names.push_back(layer + part + ".bias");
  }
  Target t;
  for (const std::string& name : names)
    if (find(name, t) && !added_.count(name)) absent.push_back(name);
  return absent;
}

void Weights::embed(int id, float* out) const {
  const Matrix& m = map.embedding;
  const int lane = id % kLanes;
  if (!shape.quantized()) {
    const float* tile = (const float*)at(m.offset) + (size_t)(id / kLanes) * m.k * kLanes;
    for (int c = 0; c < m.k; c++) out[c] = tile[(size_t)c * kLanes + lane];
    return;
  }
  const int bytes = tile_bytes(m.nibbles);
  const uint8_t* tile = (const uint8_t*)at(m.offset) + (id / kLanes) * m.tile_bytes(true);
  for (int g = 0; g < m.k; g += kGroup, tile += bytes) {
    const uint16_t* half = (const uint16_t*)(tile + bytes) - 2 * kLanes + lane;
    const float scale = half_to_float(half[0]), low = half_to_float(half[kLanes]);
    for (int k = 0; k < kGroup; k++) {
      const int line = m.nibbles ? k / 4 % 4 : k / 4;
      const int byte = tile[(line * kLanes + lane) * 4 + k % 4];
      out[g + k] = __builtin_fmaf((float)(!m.nibbles ? byte : k < kGroup / 2 ? byte & 15 : byte >> 4), scale, low);
    }
  }
}
