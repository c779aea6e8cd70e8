// The file of packed weights: a header, a record of each tensor, the tensors.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "weights.h"

static constexpr char kMagic[8] = {'L', 'S', 'T', 'W', 'G', 'T', 'S', '\n'};
static constexpr uint32_t kVersion = 6;            // of layout, quantiser and arithmetic: raise it when one changes
static constexpr size_t kPage = 4096;
static constexpr size_t kPiece = (size_t)1 << 20;  // digested at once

struct Weights::Header {
  char magic[8];
  uint32_t version;
  Precision precision;
  uint64_t bytes, digest, tensors;
  char key[1024];
};

struct Weights::Record {
  char place[48];
  Format format;
  int32_t rows, columns, has_order;
  uint64_t offset;
};

File::~File() {
  if (fd >= 0) close(fd);
}

static std::runtime_error failure(const std::string& path, const std::string& what) {
  return std::runtime_error(path + ": " + what);
}

static int create(const std::string& path) {
  if (!path.empty()) return open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
#ifdef __linux__
  return memfd_create("weights", MFD_CLOEXEC);
#else
  char name[] = "/tmp/weights-XXXXXX";
  const int fd = mkstemp(name);
  unlink(name);
  return fd;
#endif
}

Weights::Weights(std::vector<TensorSpec> specs, Precision p, int threads, std::string path, std::string key)
    : Weights(std::move(specs), p, threads) {
  if (key.size() >= sizeof Header::key) throw std::invalid_argument("key must be shorter than 1,024 bytes.");
  path_ = std::move(path), key_ = std::move(key);
  if (!path_.empty()) temporary_ = path_ + "." + std::to_string(getpid()) + ".tmp";
  file_ = File(create(temporary_));
  if (file_.fd < 0) throw failure(temporary_, std::strerror(errno));
  extend(header_bytes());
}

Weights::~Weights() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

size_t Weights::header_bytes() const {
  return (sizeof(Header) + entries_.size() * sizeof(Record) + kPage - 1) / kPage * kPage;
}

std::vector<Weights::Record> Weights::records() const {
  std::vector<Record> all(entries_.size());
  std::memset((void*)all.data(), 0, all.size() * sizeof(Record));
  for (size_t i = 0; i < all.size(); i++) {
    const Entry& e = entries_[i];
    if (e.spec.place.size() >= sizeof Record::place) throw std::invalid_argument("places must be shorter than 48 bytes.");
    std::memcpy(all[i].place, e.spec.place.data(), e.spec.place.size());
    all[i].format = e.format, all[i].rows = e.spec.rows, all[i].columns = e.spec.columns, all[i].offset = e.offset;
    all[i].has_order = e.has_order;
  }
  return all;
}

uint8_t* Weights::extend(size_t bytes) {
  const size_t at = pending_.size();
  pending_.resize(at + bytes);
  size_ += bytes;
  return pending_.data() + at;
}

void Weights::write_out(size_t window) {
  const size_t whole = pending_.size() / window * window;
  write(pending_.data(), whole, size_ - pending_.size());
  pending_.erase(pending_.begin(), pending_.begin() + whole);
}

void Weights::write(const uint8_t* data, size_t bytes, size_t at) const {
  while (bytes) {
    const ssize_t n = pwrite(file_.fd, data, bytes, (off_t)at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw failure(temporary_, std::strerror(errno));
    data += n, bytes -= n, at += n;
  }
}

void Weights::map(File& file) {
  memory_ = Memory::map_file(file.fd, size_);
  for (Entry& e : entries_) {
    const uint8_t* data = (const uint8_t*)memory_.data() + e.offset;
    e.tensor = {e.format, e.spec.rows, e.spec.columns, data, e.has_order ? (const int32_t*)(data + e.bytes()) : nullptr};
  }
}

// Eight independent chains of multiplications over 64-byte lines: guards against damage, not against malice.
static uint64_t digest_piece(const char* data, size_t bytes) {
  uint64_t lane[8];
  for (int i = 0; i < 8; i++) lane[i] = 0x9e3779b97f4a7c15ull * (i + 1);
  size_t at = 0;
  for (; at + 64 <= bytes; at += 64)
    for (int i = 0; i < 8; i++) {
      uint64_t word;
      std::memcpy(&word, data + at + 8 * i, 8);
      lane[i] = (lane[i] ^ word) * 0xff51afd7ed558ccdull;
      lane[i] ^= lane[i] >> 32;
    }
  uint64_t all = bytes;
  for (; at < bytes; at++) all = (all ^ (uint8_t)data[at]) * 0xc4ceb9fe1a85ec53ull;
  for (uint64_t l : lane) all = (all ^ l) * 0xc4ceb9fe1a85ec53ull, all ^= all >> 29;
  return all;
}

// Of all but the header. Touches every page, so that the first step finds them.
uint64_t Weights::digest() const {
  const size_t begin = sizeof(Header), pieces = (size_ - begin + kPiece - 1) / kPiece;
  std::vector<uint64_t> part(pieces);
  Stage stage;
  pool_.run([&](int thread) {
    stage.run((int)pieces, {thread, pool_.size()}, [&](size_t i) {
      const size_t at = begin + i * kPiece;
      part[i] = digest_piece(memory_.data() + at, std::min(kPiece, size_ - at));
    });
  });
  uint64_t all = pieces;
  for (uint64_t p : part) all = (all ^ p) * 0xc4ceb9fe1a85ec53ull, all ^= all >> 29;
  return all;
}

void Weights::finish() {
  write_out(1);
  pending_ = {};
  const std::vector<Record> all = records();
  write((const uint8_t*)all.data(), all.size() * sizeof(Record), sizeof(Header));
  map(file_);
  Header h;
  std::memset((void*)&h, 0, sizeof h);
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = kVersion, h.precision = precision, h.bytes = size_, h.digest = digest(), h.tensors = all.size();
  std::memcpy(h.key, key_.data(), key_.size());
  write((const uint8_t*)&h, sizeof h, 0);
  // Not synced: whatever a lost machine leaves behind, its digest tells.
  if (!temporary_.empty() && rename(temporary_.c_str(), path_.c_str())) throw failure(path_, std::strerror(errno));
  temporary_.clear();
  file_ = File();
}

static bool read_all(int fd, void* to, size_t bytes, size_t at) {
  char* data = (char*)to;
  while (bytes) {
    const ssize_t n = pread(fd, data, bytes, (off_t)at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n, bytes -= n, at += n;
  }
  return true;
}

std::unique_ptr<Weights> Weights::open(const std::string& path, const std::string& key, std::vector<TensorSpec> specs,
                                       Precision precision, int threads) {
  File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status;
  if (file.fd < 0 || fstat(file.fd, &status)) throw failure(path, std::strerror(errno));
  std::unique_ptr<Weights> w(new Weights(std::move(specs), precision, threads));
  Header h;
  std::vector<Record> all(w->entries_.size());
  if (!read_all(file.fd, &h, sizeof h, 0)) throw failure(path, "torn: no header");
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) || h.version != kVersion || h.precision != precision ||
      h.tensors != all.size() || std::string(h.key, strnlen(h.key, sizeof h.key)) != key)
    throw failure(path, "packed from other weights or by another version");
  if ((uint64_t)status.st_size != h.bytes || !read_all(file.fd, all.data(), all.size() * sizeof(Record), sizeof h))
    throw failure(path, "torn: not as long as it should be");
  w->size_ = h.bytes;
  for (size_t i = 0; i < all.size(); i++) {
    Entry& e = w->entries_[i];
    e.format = all[i].format, e.offset = all[i].offset, e.has_order = all[i].has_order == 1;
    if ((int)e.format >= kFormats || e.offset < w->header_bytes() || e.offset + e.all_bytes() > w->size_)
      throw failure(path, "damaged: a tensor lies outside");
  }
  const std::vector<Record> wanted = w->records();
  if (std::memcmp((const void*)wanted.data(), (const void*)all.data(), all.size() * sizeof(Record)))
    throw failure(path, "packed from other weights");
  w->map(file);
  if (w->digest() != h.digest) throw failure(path, "damaged: its digest does not match");
  return w;
}
