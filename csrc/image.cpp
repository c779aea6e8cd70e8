// The packed weights as a file, so that every start after the first reads them ready to use.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "kernels.h"
#include "weights.h"

static constexpr char kMagic[8] = {'L', 'S', 'T', 'W', 'G', 'T', 'S', '\n'};
static constexpr uint32_t kVersion = 3;           // of tile layout and quantiser: raise it when either changes
static constexpr size_t kHeaderBytes = 4096;      // keeps the payload aligned
static constexpr size_t kPiece = (size_t)1 << 20;  // read and digested at once, while it is in the cache

struct Header {
  char magic[8];
  uint32_t version;
  ModelShape shape;
  uint64_t bytes, digest;
  char key[1024];
  uint8_t nibbles[2048];  // one per matrix
};
static_assert(sizeof(Header) <= kHeaderBytes);

// Eight independent chains of multiplications over 64-byte lines: guards against damage, not against malice.
static uint64_t digest_piece(const char* data, size_t bytes) {
  uint64_t lane[8];
  for (int i = 0; i < 8; i++) lane[i] = 0x9e3779b97f4a7c15ull * (i + 1);
  for (size_t at = 0; at < bytes; at += 64)
    for (int i = 0; i < 8; i++) {
      uint64_t word;
      std::memcpy(&word, data + at + 8 * i, 8);
      lane[i] = (lane[i] ^ word) * 0xff51afd7ed558ccdull;
      lane[i] ^= lane[i] >> 32;
    }
  uint64_t all = bytes;
  for (uint64_t l : lane) all = (all ^ l) * 0xc4ceb9fe1a85ec53ull, all ^= all >> 29;
  return all;
}

static uint64_t combine(const std::vector<uint64_t>& parts) {
  uint64_t all = parts.size();
  for (uint64_t p : parts) all = (all ^ p) * 0xc4ceb9fe1a85ec53ull, all ^= all >> 29;
  return all;
}

static size_t num_matrices(const ModelShape& s) {
  return s.quantized() ? std::min<size_t>(2 + 4 * s.num_layers, sizeof Header::nibbles) : 0;
}

// The 4-bit form of one group of a tile.
static void to_nibbles(const uint8_t* tile, uint8_t* out) {
  constexpr int kHalf = kLanes * kGroup / 2;
  for (int i = 0; i < kHalf; i++) out[i] = tile[i] | tile[i + kHalf] << 4;
  std::memcpy(out + kHalf, tile + 2 * kHalf, 4 * kLanes);
}

bool Weights::fits_nibbles(const Matrix& m) const {
  std::atomic<bool> fits{true};
  Stage stage;
  pool_.run([&](int) {
    stage.run(m.tiles, [&](int t) {
      if (!fits) return;
      const uint8_t* tile = (const uint8_t*)at(m.offset) + t * m.tile_bytes(true);
      uint8_t all = 0;
      for (int g = 0; g < m.k / kGroup; g++, tile += tile_bytes(false))
        for (int i = 0; i < kLanes * kGroup; i++) all |= tile[i];
      if (all > 15) fits = false;
    });
  });
  return fits;
}

void Weights::finish() {
  const std::vector<const Matrix*> from = map.matrices();
  std::vector<uint8_t> nibbles(num_matrices(shape));
  for (size_t i = 0; i < nibbles.size(); i++) nibbles[i] = from[i] && fits_nibbles(*from[i]);
  ImageMap packed(shape, nibbles);
  Memory memory(packed.bytes, true);
  // What lies between two such matrices keeps its size, so each stretch moves as a whole.
  size_t read = 0, write = 0;
  auto copy_until = [&](size_t end) {
    std::memcpy(memory.data() + write, at(read), end - read);
    write += end - read, read = end;
  };
  for (size_t i = 0; i < nibbles.size(); i++) {
    if (!nibbles[i]) continue;
    const Matrix& m = *from[i];
    copy_until(m.offset);
    const size_t groups = (size_t)m.tiles * (m.k / kGroup);
    for (size_t g = 0; g < groups; g++)
      to_nibbles((const uint8_t*)at(read + g * tile_bytes(false)),
                 (uint8_t*)memory.data() + write + g * tile_bytes(true));
    read += groups * tile_bytes(false), write += groups * tile_bytes(true);
  }
  copy_until(map.bytes);
  map = std::move(packed);
  memory_ = std::move(memory);
}

struct File {
  int fd;
  ~File() {
    if (fd >= 0) close(fd);
  }
};

static std::runtime_error failure(const std::string& path, const std::string& what) {
  return std::runtime_error(path + ": " + what);
}

uint64_t Weights::digest() const {
  const size_t pieces = (memory_.size() + kPiece - 1) / kPiece;
  std::vector<uint64_t> part(pieces);
  Stage stage;
  pool_.run([&](int) {
    stage.run((int)pieces, [&](size_t i) {
      part[i] = digest_piece(at(i * kPiece), std::min(kPiece, memory_.size() - i * kPiece));
    });
  });
  return combine(part);
}

static void write_all(int fd, const char* data, size_t bytes, const std::string& path) {
  while (bytes) {
    const ssize_t n = write(fd, data, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw failure(path, std::strerror(errno));
    data += n, bytes -= n;
  }
}

static Header make_header(const ModelShape& shape, const std::string& key, const ImageMap& map) {
  Header h;
  std::memset((void*)&h, 0, sizeof h);
  if (key.size() >= sizeof h.key) throw std::invalid_argument("key must be shorter than 1,024 bytes.");
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = kVersion, h.shape = shape, h.bytes = map.bytes;
  std::copy(map.nibbles.begin(), map.nibbles.end(), h.nibbles);
  std::memcpy(h.key, key.data(), key.size());
  return h;
}

void Weights::save(const std::string& path, const std::string& key) const {
  Header h = make_header(shape, key, map);
  h.digest = digest();
  char page[kHeaderBytes] = {};
  std::memcpy(page, &h, sizeof h);
  const std::string temporary = path + "." + std::to_string(getpid()) + ".tmp";
  try {
    File f{open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    if (f.fd < 0) throw failure(temporary, std::strerror(errno));
    write_all(f.fd, page, sizeof page, temporary);
    write_all(f.fd, memory_.data(), memory_.size(), temporary);
    if (fsync(f.fd)) throw failure(temporary, std::strerror(errno));
    if (rename(temporary.c_str(), path.c_str())) throw failure(path, std::strerror(errno));
  } catch (...) {
    unlink(temporary.c_str());
    throw;
  }
}

static bool read_all(int fd, char* data, size_t bytes, size_t at) {
  while (bytes) {
    const ssize_t n = pread(fd, data, bytes, at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n, bytes -= n, at += n;
  }
  return true;
}

std::unique_ptr<Weights> Weights::load(const std::string& path, const std::string& key, const ModelShape& shape,
                                       int threads) {
  File f{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat status;
  if (f.fd < 0 || fstat(f.fd, &status)) throw failure(path, std::strerror(errno));
  Header h;
  if (!read_all(f.fd, (char*)&h, sizeof h, 0)) throw failure(path, "cannot be read");
  auto w = std::make_unique<Weights>(shape, threads);
  w->map = ImageMap(shape, {h.nibbles, h.nibbles + num_matrices(shape)});
  w->memory_ = Memory(w->map.bytes, true);
  const size_t bytes = w->map.bytes, pieces = (bytes + kPiece - 1) / kPiece;
  const Header wanted = make_header(shape, key, w->map);
  const uint64_t digest = h.digest;
  h.digest = 0;
  if (std::memcmp(&h, &wanted, sizeof h)) throw failure(path, "packed from other weights or by another version");
  if ((size_t)status.st_size != kHeaderBytes + bytes) throw failure(path, "torn: not as long as it should be");
  std::vector<char> good(threads, true);
  std::vector<uint64_t> part(pieces);
  Stage stage;
  w->pool_.run([&](int thread) {
    stage.run((int)pieces, [&](size_t i) {
      char* piece = w->memory_.data() + i * kPiece;
      const size_t size = std::min(kPiece, bytes - i * kPiece);
      if (!read_all(f.fd, piece, size, kHeaderBytes + i * kPiece)) good[thread] = false;
      part[i] = digest_piece(piece, size);
    });
  });
  for (char g : good)
    if (!g) throw failure(path, "cannot be read");
  if (combine(part) != digest) throw failure(path, "damaged: its digest does not match");
  for (const std::string& name : w->missing()) w->added_.insert(name);
  return w;
}
