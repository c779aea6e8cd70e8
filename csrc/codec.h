// One span of one row, whatever it is stored as: from a file's block, from floats, into a tile and back.
#pragma once
#include "format.h"

struct RowSpan {  // see format.h; only what the format has is set
  uint8_t u[kBlock];  // signed codes as their bytes; of a table: places in it
  int8_t s[16];
  uint8_t t[16];  // t[0]: also z
  uint16_t d, m;  // m: also dm
};

// A block of a file. False if its scales are infinite or no numbers.
bool decode(Format, const uint8_t* block, RowSpan&);
// 32 floats as a8 or q4_1: the nearest that is found. False if they are not finite or beyond half precision.
bool quantize(Format, const float* x, RowSpan&);
// The weights of a span: exactly those that gguf's dequantize gives.
void values(Format, const RowSpan&, float* out);

void pack(Format, const RowSpan* rows, uint8_t* tile);  // 16 rows
void unpack(Format, const uint8_t* tile, int lane, RowSpan&);
