// Intel's tile unit (AMX, palette 1) in portable C++, to the bit: what its instructions do to 8 tiles of at most 16 rows of
// 64 bytes. What a processor refuses (#GP, #UD) is thrown as std::logic_error. Not modelled: restarts within a tile.
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, and its exception classes AMX-E1 to E4.
#pragma once
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

class TileModel {
 public:
  struct Counts {  // of instructions
    long configures, zeros, loads, stores, products;
    long lines;  // rows of tiles, loaded and stored
  };
  Counts counts{};

  void configure(const void* memory) {  // LDTILECFG: 64 bytes
    uint8_t c[64];
    std::memcpy(c, memory, sizeof c);
    counts.configures++;
    release();
    if (!c[0]) return;
    check(c[0] == 1, "#GP: palette");
    for (int i = 1; i < 64; i++) check((i >= 16 && i < 32) || (i >= 48 && i < 56) || !c[i], "#GP: a reserved byte");
    for (int t = 0; t < 8; t++) {
      const int bytes = c[16 + 2 * t] | c[17 + 2 * t] << 8, rows = c[48 + t];
      check(bytes <= 64 && rows <= 16 && !bytes == !rows, "#GP: rows or bytes of a tile");
      tiles_[t].bytes = bytes, tiles_[t].rows = rows;
    }
  }
  void release() {  // TILERELEASE
    for (Tile& t : tiles_) t = {};
  }
  void zero(int t) {  // TILEZERO
    std::memset(valid(t).row, 0, sizeof tiles_[t].row);
    counts.zeros++;
  }
  void load(int t, const void* base, long stride) {  // TILELOADD
    zero(t), counts.zeros--, counts.loads++, counts.lines += tiles_[t].rows;
    for (int r = 0; r < tiles_[t].rows; r++) std::memcpy(tiles_[t].row[r], (const char*)base + r * stride, tiles_[t].bytes);
  }
  void store(int t, void* base, long stride) {  // TILESTORED
    const Tile& from = valid(t);
    counts.stores++, counts.lines += from.rows;
    for (int r = 0; r < from.rows; r++) std::memcpy((char*)base + r * stride, from.row[r], from.bytes);
  }

  // TDPBSSD, TDPBSUD, TDPBUSD and TDPBUUD, by the types of bytes. Sums wrap.
  template <class A, class B>
  void multiply(int to, int left, int right) {
    Tile &c = valid(to), &a = valid(left), &b = valid(right);
    check(to != left && to != right && left != right, "#UD: a tile twice");
    check(c.bytes % 4 == 0 && a.bytes % 4 == 0 && b.bytes % 4 == 0, "#UD: bytes are not in fours");
    check(c.rows == a.rows && c.bytes == b.bytes && a.bytes / 4 == b.rows, "#UD: shapes do not fit");
    counts.products++;
    for (int m = 0; m < c.rows; m++) {
      uint32_t sums[16];
      std::memcpy(sums, c.row[m], sizeof sums);
      for (int k = 0; k < b.rows; k++)
        for (int n = 0; n < c.bytes / 4; n++)
          for (int i = 0; i < 4; i++) sums[n] += (uint32_t)((A)a.row[m][4 * k + i] * (B)b.row[k][4 * n + i]);
      std::memcpy(c.row[m], sums, c.bytes);
    }
  }

 private:
  struct Tile {
    int rows = 0, bytes = 0;
    uint8_t row[16][64] = {};
  };

  static void check(bool good, const char* fault) {
    if (!good) throw std::logic_error(std::string("tile unit: ") + fault);
  }
  Tile& valid(int t) {
    check(t >= 0 && t < 8 && tiles_[t].rows, "#UD: a tile that is not configured");
    return tiles_[t];
  }

  Tile tiles_[8];
};
