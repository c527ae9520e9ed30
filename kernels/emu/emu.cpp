#include "emu.h"
#include <algorithm>
#include <numeric>

namespace emu {

asm(R"(.text
.globl koma_emu_switch
.type koma_emu_switch,@function
koma_emu_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp, (%rdi)
 movq %rsi, %rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
.size koma_emu_switch, .-koma_emu_switch
)");

constexpr size_t stack_bytes = 64 * 1024;
// What the largest architecture grants to a block.
constexpr size_t shared_bytes = 227 * 1024;

static void leave() { koma_emu_switch(&block->current->stack_pointer, block->scheduler); }

static void enter() {
  block->body();
  block->current->state = State::done;
  leave();
  __builtin_trap();
}

void wait_at_barrier() {
  block->current->state = State::barrier;
  leave();
}

void wait_in_warp(const char *op) {
  Fiber &fiber = *block->current;
  fiber.state = State::warp;
  fiber.op = op;
  leave();
}

void fail(const std::string &what) {
  block->error = what;
  leave();
  __builtin_trap();
}

static void start(Block &b, unsigned i) {
  Fiber &fiber = b.fibers[i];
  fiber = {};
  fiber.state = State::ready;
  fiber.thread = dim3(i % b.size.x, i / b.size.x % b.size.y, i / (b.size.x * b.size.y));
  fiber.lane = i % 32;
  fiber.warp = i / 32;
  void **top = reinterpret_cast<void **>(b.stacks[i] + stack_bytes - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void *>(enter);
  for (int k = 0; k < 6; k++) *--top = nullptr;
  fiber.stack_pointer = top;
}

// Wakes the warps all of whose lanes wait in the same operation.
static bool release_warps(Block &b) {
  bool any = false;
  for (size_t first = 0; first + 32 <= b.fibers.size(); first += 32) {
    Fiber *warp = &b.fibers[first];
    bool all = true;
    for (size_t lane = 0; lane < 32 && all; lane++) all = warp[lane].state == State::warp && warp[lane].op == warp[0].op;
    if (!all) continue;
    for (size_t lane = 0; lane < 32; lane++) warp[lane].state = State::ready;
    any = true;
  }
  return any;
}

static void run(Block &b) {
  unsigned count = b.size.x * b.size.y * b.size.z;
  b.fibers.resize(count);
  while (b.stacks.size() < count) b.stacks.push_back(static_cast<char *>(aligned_alloc(64, stack_bytes)));
  for (unsigned i = 0; i < count; i++) start(b, i);
  for (;;) {
    // From some thread on in some step, so that every one has its turn.
    unsigned start = 0, step = 1;
    if (b.shuffle) {
      start = b.random() % count;
      do step = b.random() % count;
      while (std::gcd(step, count) != 1);
    }
    bool ran = false;
    for (unsigned n = 0; n < count; n++) {
      unsigned i = (start + size_t(n) * step) % count;
      if (b.fibers[i].state != State::ready) continue;
      b.current = &b.fibers[i];
      koma_emu_switch(&b.scheduler, b.fibers[i].stack_pointer);
      if (!b.error.empty()) throw std::runtime_error(b.error);
      ran = true;
    }
    unsigned done = 0, waiting = 0, in_warp = 0;
    for (Fiber &fiber : b.fibers) {
      done += fiber.state == State::done;
      waiting += fiber.state == State::barrier;
      in_warp += fiber.state == State::warp;
    }
    if (done == count) return;
    // A thread that has ended counts as one that is there, as it does since sm_70.
    if (waiting > 0 && waiting + done == count) {
      for (Fiber &fiber : b.fibers)
        if (fiber.state == State::barrier) fiber.state = State::ready;
      continue;
    }
    if (release_warps(b) || ran) continue;
    throw std::runtime_error("deadlock: " + std::to_string(waiting) + " threads at a barrier, " + std::to_string(in_warp) +
                             " in a warp operation, " + std::to_string(done) + " at their end, of " + std::to_string(count));
  }
}

void launch(dim3 grid, dim3 size, size_t dynamic, int seed, std::function<void()> body) {
  static thread_local Block b;
  block = &b;
  b.size = size;
  b.grid = grid;
  b.dynamic = dynamic;
  b.shuffle = seed >= 0;
  b.random.seed(static_cast<unsigned>(seed));
  b.body = std::move(body);
  b.error.clear();
  b.shared.resize(shared_bytes);
  b.used = shared_bytes;
  size_t count = size_t(grid.x) * grid.y * grid.z;
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; i++) order[i] = i;
  if (b.shuffle) std::shuffle(order.begin(), order.end(), b.random);
  for (size_t i : order) {
    b.index = dim3(i % grid.x, i / grid.x % grid.y, i / (size_t(grid.x) * grid.y));
    const uint32_t nan = 0x7fc0dead;
    for (size_t at = 0; at + 4 <= std::max(b.used, dynamic); at += 4) memcpy(&b.shared[at], &nan, 4);
    b.used = dynamic;
    run(b);
  }
}

}  // namespace emu
