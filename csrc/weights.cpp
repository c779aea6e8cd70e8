#include "weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "codec.h"
#include "half.h"

// Systems that can do so keep a file in huge pages where it is written in whole ones, and a model is read a third faster
// from those.
static constexpr size_t kWindow = (size_t)2 << 20;
static constexpr size_t kTogether = 8 * kWindow;  // packed before it is written

Memory::Memory(size_t bytes, bool huge) : size_(bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::runtime_error("out of memory: " + std::to_string(bytes) + " bytes");
  data_ = (char*)p;
#ifdef MADV_HUGEPAGE
  if (huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
}

Memory Memory::map_file(int fd, size_t bytes) {
  Memory m;
  void* p = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) throw std::runtime_error("cannot map " + std::to_string(bytes) + " bytes");
#ifdef MADV_HUGEPAGE
  madvise(p, bytes, MADV_HUGEPAGE);
#endif
  m.data_ = (char*)p, m.size_ = bytes;
  return m;
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

void Tensor::row(int i, float* out) const {
  const uint8_t* tile = data + (size_t)(i / kLanes) * tile_bytes();
  const int lane = i % kLanes;
  if (format == Format::f32) {
    for (int c = 0; c < k; c++) out[c] = ((const float*)tile)[(size_t)c * kLanes + lane];
    return;
  }
  RowSpan span;
  std::vector<float> x(order ? k : 0);
  for (int c = 0; c < k; c += info(format).span, tile += info(format).tile_bytes()) {
    unpack(format, tile, lane, span);
    values(format, span, (order ? x.data() : out) + c);
  }
  for (int c = 0; order && c < k; c++) out[order[c]] = x[c];
}

// A tensor as it comes, and the entry it goes to.
struct Weights::Source {
  Format format;
  const uint8_t* data;
  size_t row_bytes;
  const Entry& to;
  const std::vector<int32_t>& order;
  std::atomic<bool> good{true};

  int columns() const { return std::max(to.spec.columns, 1); }

  // In the order of inputs. False if it holds what is not finite or beyond half precision, where no model has weights:
  // sums of larger ones could overflow in the middle of an answer.
  bool floats(int row, float* out) const {
    const bool good = stored_floats(row, out);
    if (!order.empty()) {
      const std::vector<float> x(out, out + columns());
      for (size_t i = 0; i < x.size(); i++) out[order[i]] = x[i];
    }
    return good;
  }

  bool stored_floats(int row, float* out) const {
    const uint8_t* from = data + row * row_bytes;
    const int n = columns();
    if (format == Format::f32) {
      std::memcpy(out, from, n * sizeof(float));
    } else if (format == Format::f16) {
      for (int i = 0; i < n; i++) out[i] = finite_half_to_float(((const uint16_t*)from)[i]);
    } else if (format == Format::bf16) {
      for (int i = 0; i < n; i++) out[i] = bits_to_float((uint32_t)((const uint16_t*)from)[i] << 16);
    } else {
      RowSpan span;
      bool fine = true;
      for (int i = 0; i < n; i += info(format).span, from += info(format).file_bytes) {
        fine &= decode(format, from, span);
        values(format, span, out + i);
      }
      return fine;
    }
    uint32_t top = 0;
    for (int i = 0; i < n; i++) top = std::max(top, float_to_bits(out[i]) & 0x7fffffff);
    return top <= 0x477fe000;  // 65504
  }
};

Weights::Weights(std::vector<TensorSpec> specs, Precision p, int threads) : precision(p), pool_(threads) {
  for (TensorSpec& spec : specs) {
    names_[spec.name] = places_[spec.place] = entries_.size();
    entries_.push_back({std::move(spec)});
  }
}

static Format stored_format(const TensorSpec& spec, Format source, Precision precision) {
  if (!spec.columns || precision == Precision::float32) return Format::f32;
  if (info(source).is_coded()) return source;
  // What comes first and last is worth its 8 bits: errors there matter most.
  const bool is_outside = spec.place == "embedding" || spec.place == "head";
  return precision == Precision::int8 || is_outside ? Format::a8 : Format::q4_1;
}

static size_t bytes_of(const TensorSpec& spec, Format format) {
  const Tensor t{format, spec.rows, spec.columns};
  return spec.columns ? t.tiles() * t.tile_bytes() : t.tiles() * kLanes * sizeof(float);
}

size_t Weights::Entry::bytes() const { return bytes_of(spec, format); }

std::pair<Format, size_t> Weights::packed(const TensorSpec& spec, Format source, Precision precision) {
  const Format format = stored_format(spec, source, precision);
  return {format, bytes_of(spec, format)};
}

static void pack_floats(const float* rows, int k, float* tile) {
  for (int c = 0; c < k; c++)
    for (int i = 0; i < kLanes; i++) tile[c * kLanes + i] = rows[(size_t)i * k + c];
}

// One row's spans: taken as they are, or made from its numbers.
static bool read_spans(Format source, Format to, const uint8_t* from, const float* x, int count, RowSpan* spans) {
  bool good = true;
  for (int i = 0; i < count; i++)
    good &= source == to ? decode(to, from + (size_t)i * info(to).file_bytes, spans[i])
                         : quantize(to, x + i * info(to).span, spans[i]);
  return good;
}

void Weights::pack_tile(const Source& s, int tile, uint8_t* to_tile) const {
  const Format to = s.to.format;
  const int first = tile * kLanes, rows = std::min(kLanes, s.to.spec.rows - first), k = s.columns();
  const bool keeps_floats = to == Format::f32, needs_floats = keeps_floats || s.format != to;
  std::vector<float> x(needs_floats ? (size_t)kLanes * k : 0);
  bool good = true;
  for (int i = 0; needs_floats && i < rows; i++) good &= s.floats(first + i, x.data() + (size_t)i * k);
  if (keeps_floats) {
    pack_floats(x.data(), k, (float*)to_tile);
  } else {
    const FormatInfo& of = info(to);
    const int count = k / of.span;
    std::vector<RowSpan> spans((size_t)kLanes * count);
    for (int i = 0; i < rows; i++)
      good &= read_spans(s.format, to, s.data + (first + i) * s.row_bytes, x.data() + (size_t)i * k, count,
                         spans.data() + (size_t)i * count);
    RowSpan column[kLanes];
    for (int c = 0; c < count; c++) {
      for (int i = 0; i < kLanes; i++) column[i] = spans[(size_t)i * count + c];
      pack(to, column, to_tile + (size_t)c * of.tile_bytes());
    }
  }
  if (!good) const_cast<Source&>(s).good = false;
}

// Whether it names each of n inputs once, or is empty.
static bool is_order(const std::vector<int32_t>& order, size_t n) {
  std::vector<bool> seen(n);
  for (int32_t i : order) {
    if (i < 0 || (size_t)i >= n || seen[i]) return false;
    seen[i] = true;
  }
  return order.empty() || order.size() == n;
}

static std::string show(const std::vector<size_t>& shape) {
  std::string text = "(";
  for (size_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + ")";
}

void Weights::add(const std::string& name, Format source, const uint8_t* data, size_t bytes,
                  const std::vector<size_t>& given, const std::vector<int32_t>& order) {
  const auto found = names_.find(name);
  if (found == names_.end()) throw std::invalid_argument("Tensor " + name + " does not belong to this model.");
  Entry& e = entries_[found->second];
  const TensorSpec& spec = e.spec;
  std::vector<size_t> wanted{(size_t)spec.rows};
  if (spec.columns) wanted.push_back(spec.columns);
  if (given != wanted)
    throw std::invalid_argument("Tensor " + name + " must have shape " + show(wanted) + ". Given: " + show(given) +
                                ".");
  if (e.offset) throw std::invalid_argument("Tensor " + name + " was given twice.");
  const FormatInfo& of = info(source);
  const size_t columns = std::max(spec.columns, 1), row_bytes = columns / of.span * of.file_bytes;
  if (columns % of.span || bytes != row_bytes * spec.rows)
    throw std::invalid_argument("Tensor " + name + " of type " + of.name + " does not hold so many bytes.");
  e.format = stored_format(spec, source, precision);
  if (columns % info(e.format).span && spec.columns)
    throw std::invalid_argument("Tensor " + name + " must have a multiple of 32 columns.");
  if (!is_order(order, spec.columns))
    throw std::invalid_argument("Tensor " + name + " must name each of its columns once in its order.");
  e.has_order = !order.empty() && e.format == source;
  Source s{source, data, row_bytes, e, order};
  const size_t at = size_, each = spec.columns ? Tensor{e.format, spec.rows, spec.columns}.tile_bytes() : e.bytes();
  if (!spec.columns) {
    float* x = (float*)extend(e.bytes());
    for (int i = 0; i < spec.rows; i++)
      if (!s.floats(i, x + i)) s.good = false;
  }
  const int tiles = spec.columns ? (spec.rows + kLanes - 1) / kLanes : 0, most = (int)std::max<size_t>(kTogether / each, 1);
  for (int first = 0; first < tiles; first += most) {
    const int count = std::min(most, tiles - first);
    uint8_t* to = extend(count * each);
    Stage stage;
    pool_.run([&](int) { stage.run(count, [&](int i) { pack_tile(s, first + i, to + i * each); }); });
    write_out(kWindow);
  }
  if (!s.good) throw std::invalid_argument("Tensor " + name + " holds NaN, infinity or values over 65504.");
  if (e.has_order) std::memcpy(extend(order.size() * sizeof(int32_t)), order.data(), order.size() * sizeof(int32_t));
  extend((64 - size_ % 64) % 64);
  e.offset = at;
}

std::vector<std::string> Weights::missing() const {
  std::vector<std::string> absent;
  for (const Entry& e : entries_)
    if (!e.offset) absent.push_back(e.spec.name);
  return absent;
}

const Tensor* Weights::find(const std::string& place) const {
  const auto found = places_.find(place);
  return found == places_.end() ? nullptr : &entries_[found->second].tensor;
}

const Tensor& Weights::by_name(const std::string& name) const {
  const auto found = names_.find(name);
  if (found == names_.end()) throw std::invalid_argument("Tensor " + name + " does not belong to this model.");
  return entries_[found->second].tensor;
}
