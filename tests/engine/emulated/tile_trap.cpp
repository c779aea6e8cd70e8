// Runs a processor's tile instructions on one that has none: each is refused there (SIGILL), decoded here, and done by the
// model, so that what the compiler made of kernels_amx.cpp is what is tested. Source: Intel's manual, volume 2.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ucontext.h>

#include "tile_model.h"

static thread_local TileModel unit;

namespace {

constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

struct Instruction {  // C4 RXBmmmmm WvvvvLpp opcode ModRM [SIB] [displacement]
  const uint8_t* code;
  const greg_t* registers;
  int length = 5;
  char* base = nullptr;
  long stride = 0;  // index times scale

  int prefix() const { return code[2] & 3; }
  int second() const { return ~code[2] >> 3 & 15; }
  int mod() const { return code[4] >> 6; }
  int reg() const { return (code[4] >> 3 & 7) + (code[1] & 0x80 ? 0 : 8); }
  int rm() const { return (code[4] & 7) + (code[1] & 0x20 ? 0 : 8); }
  char* of(int number) const { return (char*)registers[kRegisters[number]]; }

  void read_memory() {
    int base_number = rm(), wide = mod() == 2;
    if ((code[4] & 7) == 4) {
      const uint8_t sib = code[length++];
      const int index = (sib >> 3 & 7) + (code[1] & 0x40 ? 0 : 8);
      base_number = (sib & 7) + (code[1] & 0x20 ? 0 : 8);
      if (index != 4) stride = (long)of(index) << (sib >> 6);
    }
    if (mod() == 0 && (base_number & 7) == 5) std::abort();  // without a base: compilers have not made it so far
    int32_t displacement = 0;
    if (wide) std::memcpy(&displacement, code + length, 4), length += 4;
    if (mod() == 1) displacement = (int8_t)code[length++];
    base = of(base_number) + displacement;
  }

  bool run() {
    enum { kNone, k66, kF3, kF2 };
    if (code[0] != 0xc4 || (code[1] & 31) != 2) return false;
    if (mod() != 3) read_memory();
    switch (code[3]) {
      case 0x49:
        if (prefix() == kF2) return unit.zero(reg()), true;
        if (prefix() == kNone) return mod() == 3 ? unit.release() : unit.configure(base), true;
        return false;
      case 0x4b:
        if (prefix() == kF2) return unit.load(reg(), base, stride), true;
        if (prefix() == kF3) return unit.store(reg(), base, stride), true;
        return false;
      case 0x5e:
        if (prefix() == kF2) return unit.multiply<int8_t, int8_t>(reg(), rm(), second()), true;
        if (prefix() == kF3) return unit.multiply<int8_t, uint8_t>(reg(), rm(), second()), true;
        return false;
    }
    return false;
  }
};

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  Instruction instruction{(const uint8_t*)registers[REG_RIP], registers};
  if (!instruction.run()) std::puts("an instruction that is not the tile unit's"), std::abort();
  registers[REG_RIP] += instruction.length;
}

const auto installed = [] {
  struct sigaction action {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGILL, &action, nullptr);
}();

}  // namespace
