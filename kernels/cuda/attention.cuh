// What both kinds of attention are told: pieces of work, shapes, and which tokens a query sees.
#pragma once
#include "cache.cuh"

// A piece of work: queries of one request, as `ops::attention` makes them.
struct Task {
  unsigned row, out, rows;   // of the batch, and of the output
  unsigned position, len;    // of the first row in its context; tokens of the context
  unsigned table;            // where its blocks begin
  unsigned split, splits;    // which split (all, if `whole`), of how many
  unsigned state;            // where its states begin, in queries
};
constexpr unsigned whole = 0xffffffffu;

struct Shape {
  Places places;
  long long qkv_width;
  int q_heads, kv_heads, k_dim, v_dim;
  int heads, chunks;         // query heads of one key head that a block does, and blocks that they take
  int causal, window;        // window 0: all
  float scale, cap;          // cap 0: none
};

// The tokens that a query sees: `first..last`.
struct Seen {
  int first, last;
};
__device__ __forceinline__ Seen seen(const Shape &shape, const Task &task, int row) {
  const int position = task.position + row;
  Seen seen = {0, int(task.len)};
  if (shape.causal) seen.last = min(seen.last, position + 1);
  if (shape.window > 0) {
    seen.first = max(0, position + 1 - shape.window);
    if (!shape.causal) seen.last = min(seen.last, position + shape.window);
  }
  return seen;
}
