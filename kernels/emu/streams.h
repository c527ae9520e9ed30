// The order of work on a device: streams, events, graphs.
//
// Owns: what streams were asked for and have not done. Must not know: what the work is. A stream does its work as late as a driver
// may, only when somebody waits for it, or at once if it is one that hurries: what is read after it was overwritten or freed,
// because somebody did not wait, is noticed either way.
#pragma once
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

namespace emu {

using Op = std::function<void()>;

struct Stream {
  std::deque<Op> queue;
  size_t asked = 0, done = 0;
  bool hurries = false;
  std::unique_ptr<std::vector<Op>> captured;  // while work is captured

  // Asks for work: it is captured, done now, or done when somebody waits.
  void ask(Op op) {
    if (captured) return captured->push_back(std::move(op));
    asked++;
    queue.push_back(std::move(op));
    if (hurries) wait(asked);
  }
  // Does the work up to number `count`.
  void wait(size_t count) {
    while (done < count && !queue.empty()) {
      Op op = std::move(queue.front());
      queue.pop_front();
      done++;
      op();
    }
  }
  void wait() { wait(asked); }
};

// A place in a stream's work; one that was never recorded is passed.
struct Event {
  std::shared_ptr<Stream> stream;
  size_t count = 0;

  void wait() const {
    if (stream) stream->wait(count);
  }
};

// Captured work, to be asked for again.
using Graph = std::vector<Op>;

}  // namespace emu
