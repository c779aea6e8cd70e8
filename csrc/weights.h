// A model's weights as the kernels read them, in one file that is mapped: its pages are shared by all who run the model,
// and none of them is this process's own. Knows tensors by name and place (spec.py), and nothing of what they are for.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "format.h"
#include "pool.h"

// Anonymous memory that the system fills with zeros as it is touched, or a file's.
class Memory {
 public:
  Memory() = default;
  Memory(size_t bytes, bool huge);
  static Memory map_file(int fd, size_t bytes);  // to be read
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

struct File {
  int fd = -1;

  File() = default;
  explicit File(int f) : fd(f) {}
  File(File&& other) noexcept { std::swap(fd, other.fd); }
  File& operator=(File&& other) noexcept {
    std::swap(fd, other.fd);
    return *this;
  }
  ~File();
};

struct TensorSpec {
  std::string name, place;
  int rows, columns;  // columns 0: a vector
};

// A matrix of n rows and k columns as tiles of 16 rows, or a vector of n floats padded to 16 with zeros.
struct Tensor {
  Format format = Format::f32;
  int n = 0, k = 0;
  const uint8_t* data = nullptr;
  const int32_t* order = nullptr;  // column i is input order[i]; null: i

  int tiles() const { return (n + kLanes - 1) / kLanes; }
  size_t tile_bytes() const {
    return format == Format::f32 ? (size_t)k * kLanes * sizeof(float)
                                 : (size_t)k / info(format).span * info(format).tile_bytes();
  }
  const float* vector() const { return (const float*)data; }
  void row(int i, float* out) const;  // k floats: exactly what is stored
};

enum class Precision : uint32_t { float32, int8, int4 };

class Weights {
 public:
  // The image is written to `path` as tensors are added, under another name until it is whole; an empty path: to memory.
  // key: names what it is made from. Throws std::runtime_error where it cannot be written.
  Weights(std::vector<TensorSpec>, Precision, int threads, std::string path, std::string key);
  ~Weights();

  // Packs one tensor. source: the type of its numbers; coded ones are kept as they are, unless the precision is float32.
  // order: as Tensor's, or empty.
  // Throws std::invalid_argument for an unknown name, a second time, a wrong shape or size, and values that are not finite
  // or beyond half precision; std::runtime_error for a full disk.
  void add(const std::string& name, Format source, const uint8_t* data, size_t bytes, const std::vector<size_t>& shape,
           const std::vector<int32_t>& order);
  std::vector<std::string> missing() const;
  void finish();  // after the last tensor

  // Throws std::runtime_error for a file of another version, key, precision or other tensors, or a damaged one.
  static std::unique_ptr<Weights> open(const std::string& path, const std::string& key, std::vector<TensorSpec>,
                                       Precision, int threads);

  // What becomes of a tensor: its format and its bytes in the image.
  static std::pair<Format, size_t> packed(const TensorSpec&, Format source, Precision);

  const Precision precision;
  bool quantized() const { return precision != Precision::float32; }
  size_t bytes() const { return size_; }
  // Null for what the model does not have.
  const Tensor* find(const std::string& place) const;
  const Tensor& by_name(const std::string& name) const;  // throws std::invalid_argument

 private:
  struct Header;
  struct Record;
  struct Entry {
    TensorSpec spec;
    Format format = Format::f32;
    size_t offset = 0;  // 0: not there yet
    bool has_order = false;
    Tensor tensor;

    size_t bytes() const;  // without the order, which follows
    size_t all_bytes() const { return bytes() + (has_order ? spec.columns * sizeof(int32_t) : 0); }
  };
  struct Source;
  Weights(std::vector<TensorSpec>, Precision, int threads);
  void pack_tile(const Source&, int tile, uint8_t* to) const;
  uint8_t* extend(size_t bytes);   // of the image, by zeros; until the next call of these
  void write_out(size_t window);  // what fills windows of the file
  void write(const uint8_t* data, size_t bytes, size_t at) const;
  size_t header_bytes() const;
  std::vector<Record> records() const;
  void map(File&);
  uint64_t digest() const;

  std::vector<Entry> entries_;
  std::map<std::string, size_t> names_, places_;
  std::string path_, temporary_, key_;
  File file_;
  Memory memory_;
  size_t size_ = 0;
  std::vector<uint8_t> pending_;  // the image's end, which is not in the file yet
  mutable Pool pool_;
};
