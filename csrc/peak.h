// How fast the machine multiplies at most, measured.
#pragma once
#include <string>

// Operations per second of `threads` threads together, each busy for `seconds` with nothing but products that stay in
// registers: of bytes where the instruction set multiplies them and `int8` asks for them, of floats elsewhere. A
// product and its addition are two operations. Throws std::invalid_argument.
double measure_peak(const std::string& isa, bool int8, int threads, double seconds);
