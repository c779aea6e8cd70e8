// Names this instruction set's functions for find_kernels. Include last.
#pragma once
#include "attend_impl.h"
#include "gemm_impl.h"
#include "kernels_impl.h"

#define KERNEL_STRING(x) #x
#define KERNEL_NAME(x) KERNEL_STRING(x)

namespace KERNEL_NS {

extern const Kernels table;
const Kernels table = {KERNEL_NAME(KERNEL_NS), kPanel, 16, 1, rms_norm, quantize, round_row, hadamard, gemm, gemm, gemm_f32,
                       swiglu, rope, attend, merge, finish, max_value, masked, softmax_terms};

}  // namespace KERNEL_NS
