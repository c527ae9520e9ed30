// The execution model of CUDA on the host: one fiber for each thread of a block, blocks one after another.
//
// Owns: threads, barriers, warp operations, shared memory. Must not know: any kernel. Shared memory starts as NaN, the order of
// threads and of blocks is shuffled by a seed, and threads that wait for each other for ever are an error that says where they
// wait. A launch that fails throws `std::runtime_error`.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#error "the emulation switches stacks in x86-64 assembly"
#endif

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emu {

// Saves the registers that a call keeps on this stack, stores its pointer in `from`, goes on with the stack `to`.
extern "C" void koma_emu_switch(void **from, void *to);

enum class State : uint8_t { ready, barrier, warp, done };

struct Fiber {
  void *stack_pointer;
  State state;
  dim3 thread;
  unsigned lane, warp;
  const char *op;     // the warp operation that it waits in
  uint64_t slots[2];  // what it gives to it, and gave to the one before
  unsigned fragments[2][6];  // as `slots`, of matrices
  unsigned shuffles;  // how many it has begun
  size_t shared;      // bytes of static shared memory that it has named so far
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<char *> stacks;
  std::vector<char> shared;   // dynamic, then static
  size_t dynamic = 0, used = 0;
  dim3 size, grid, index;
  Fiber *current = nullptr;
  void *scheduler = nullptr;
  std::function<void()> body;
  std::string error;
  std::mt19937 random;
  bool shuffle = false;
};

inline thread_local Block *block = nullptr;

void launch(dim3 grid, dim3 size, size_t dynamic, int seed, std::function<void()> body);
void wait_at_barrier();
void wait_in_warp(const char *op);
[[noreturn]] void fail(const std::string &what);

// The next `count` values of static shared memory: the same ones for all threads, which name them in the same order.
template <class T> T *shared(size_t count) {
  Fiber &fiber = *block->current;
  size_t at = (block->dynamic + fiber.shared + 15) / 16 * 16;
  fiber.shared = at + count * sizeof(T) - block->dynamic;
  block->used = std::max(block->used, at + count * sizeof(T));
  if (block->used > block->shared.size()) fail("more than 227 KiB of shared memory");
  return reinterpret_cast<T *>(block->shared.data() + at);
}

template <class T> T *dynamic_shared() { return reinterpret_cast<T *>(block->shared.data()); }

template <class T> T shuffle(unsigned mask, T value, unsigned from, const char *op) {
  static_assert(sizeof(T) <= 8);
  if (mask != 0xffffffffu) fail(std::string(op) + " of some lanes of a warp only");
  Fiber &fiber = *block->current;
  // Two slots in turn: nobody comes to the next but one before all have read this one.
  unsigned slot = fiber.shuffles++ % 2;
  fiber.slots[slot] = 0;
  memcpy(&fiber.slots[slot], &value, sizeof(T));
  wait_in_warp(op);
  T result;
  memcpy(&result, &block->fibers[fiber.warp * 32 + from % 32].slots[slot], sizeof(T));
  return result;
}

// The fragments that the lanes of a warp have given to one product.
struct Fragments {
  unsigned slot, warp;
  const unsigned *of(int lane) const { return block->fibers[warp * 32 + lane].fragments[slot]; }
};

// As `shuffle`, of registers that any lane may read.
inline Fragments exchange(const unsigned (&mine)[6], const char *op) {
  Fiber &fiber = *block->current;
  unsigned slot = fiber.shuffles++ % 2;
  memcpy(fiber.fragments[slot], mine, sizeof(mine));
  wait_in_warp(op);
  return {slot, fiber.warp};
}

// One bit of each lane.
inline unsigned ballot(unsigned mask, bool mine) {
  unsigned all = 0;
  if (mask != 0xffffffffu) fail("ballot of some lanes of a warp only");
  Fiber &fiber = *block->current;
  unsigned slot = fiber.shuffles++ % 2;
  fiber.slots[slot] = mine;
  wait_in_warp("ballot");
  for (unsigned lane = 0; lane < 32; lane++) all |= unsigned(block->fibers[fiber.warp * 32 + lane].slots[slot]) << lane;
  return all;
}

}  // namespace emu
