// A stand-in of `libcuda`: memory of the host, launches that run the emulated kernels. It holds its caller to what the driver asks
// for (copies inside of allocations, sizes of grids and of shared memory, what may be asked while work is captured), counts what
// is asked for, and fails on demand. Each of its devices is a world of its own, so that tests can run side by side.
//
// Work is done in the order of its stream, as late as may be (see `streams.h`): what does not wait for what it needs is noticed.
// It says nothing about time.
#include "registry.h"
#include "streams.h"
#include <map>
#include <cstdio>
#include <mutex>
#include <set>

std::map<std::string, emu::Kernel> &emu::kernels() {
  // As all that is here: never destroyed, since threads may still call at the end of the process.
  static auto &all = *new std::map<std::string, emu::Kernel>;
  return all;
}

namespace {

using Result = int;
using Address = unsigned long long;
enum : Result {
  success = 0, invalid_value = 1, out_of_memory = 2, invalid_device = 101, invalid_context = 201, not_found = 500, launch_failed = 719,
  capture_unsupported = 900,
};

constexpr int device_count = 4096;

struct Device {
  std::recursive_mutex lock;
  int number = 0;
  std::map<Address, size_t> memory;      // what is allocated, with its bytes
  std::map<std::string, long> counts;    // of calls, and of launches by name ("launch:NAME")
  std::map<std::string, long> settings;  // see `koma_emu_set`
  Result broken = success;               // what every call answers from now on
  std::map<std::string, long> granted;   // dynamic shared memory that a kernel may take
  std::map<void *, std::shared_ptr<emu::Stream>> streams;
  std::map<void *, emu::Event> events;
  std::set<emu::Graph *> graphs;
  long made = 0;                         // streams and events so far

  bool capturing() {
    for (auto &[handle, stream] : streams)
      if (stream->captured) return true;
    return false;
  }
  void wait() {
    for (auto &[handle, stream] : streams) stream->wait();
  }
};

// Of what devices share: pinned memory.
std::mutex pinned_lock;
std::map<const char *, size_t> &pinned = *new std::map<const char *, size_t>;

bool is_pinned(const void *at, size_t bytes) {
  std::lock_guard<std::mutex> guard(pinned_lock);
  auto next = pinned.upper_bound(static_cast<const char *>(at));
  if (next == pinned.begin()) return false;
  auto found = std::prev(next);
  return static_cast<const char *>(at) + bytes <= found->first + found->second;
}

Device &device(int number) {
  static std::vector<Device> &all = *[] {
    auto *devices = new std::vector<Device>(device_count);
    std::vector<Device> &all = *devices;
    for (int i = 0; i < device_count; i++) {
      all[i].number = i;
      const char *capability = getenv("KOMA_EMU_CAPABILITY");
      all[i].settings = {{"capability", capability ? atol(capability) : 80}, {"memory", 1 << 30}, {"seed", -1}, {"shared", 99 * 1024}, {"hurry", 0}, {"library", 1}};
    }
    return devices;
  }();
  return all[number];
}

int driver_version = 13000;
thread_local int current = -1;
std::mutex error_lock;
std::string &last_error = *new std::string;

// Counts down a setting; true when it reaches 0.
bool due(Device &d, const char *setting) {
  auto at = d.settings.find(setting);
  return at != d.settings.end() && at->second > 0 && --at->second == 0;
}

// The device of this thread, its call counted; null with `result` if there is none or it is broken.
Device *called(const char *what, Result &result) {
  Device &d = device(current);
  d.counts[what]++;
  if (due(d, "lose")) d.broken = 999;
  if (d.broken) return result = d.broken, nullptr;
  return &d;
}

bool inside(Device &d, Address at, size_t bytes) {
  auto next = d.memory.upper_bound(at);
  if (next == d.memory.begin()) return false;
  auto found = std::prev(next);
  return at + bytes <= found->first + found->second;
}

}  // namespace

#define CALL(...)                                                      \
  if (current < 0) return invalid_context;                             \
  std::lock_guard<std::recursive_mutex> guard(device(current).lock);   \
  Result result = success;                                             \
  Device *d = called(__VA_ARGS__, result);                             \
  if (!d) return result;
// A call on a stream.
#define STREAM_CALL(what, handle)              \
  CALL(what)                                   \
  auto at_stream = d->streams.find(handle);    \
  if (at_stream == d->streams.end()) return invalid_value; \
  std::shared_ptr<emu::Stream> stream = at_stream->second;
#define API extern "C" __attribute__((visibility("default")))

// What tests set: "seed" (order of threads, -1: as they are numbered), "capability" (of 80), "memory" (bytes), "shared" (bytes that a
// block may have at most), "hurry" (which streams do their work at once: 1 the first, third..., 2 the others, 3 all), "deaf" (streams do
// not wait for each other), "library" (0: cuBLASLt is not found), and countdowns of calls: "fail_alloc", "fail_launch", "fail_capture",
// "lose" (the device, at any call).
API void koma_emu_set(int number, const char *what, long value) {
  Device &d = device(number);
  std::lock_guard<std::recursive_mutex> guard(d.lock);
  if (std::string(what) == "driver") driver_version = int(value);
  else d.settings[what] = value;
}
API long koma_emu_get(int number, const char *what) {
  Device &d = device(number);
  std::lock_guard<std::recursive_mutex> guard(d.lock);
  const std::string name = what;
  if (name == "allocations") return long(d.memory.size());
  if (name == "streams") return long(d.streams.size());
  if (name == "events") return long(d.events.size());
  if (name == "graphs") return long(d.graphs.size());
  return d.counts[name];
}
API long koma_emu_setting(int number, const char *what) {
  Device &d = device(number);
  std::lock_guard<std::recursive_mutex> guard(d.lock);
  return d.settings[what];
}
// The bytes of argument `at` of a kernel; 0 behind the last, -1 if there is no such kernel.
API long koma_emu_argument(const char *kernel, unsigned at) {
  auto found = emu::kernels().find(kernel);
  if (found == emu::kernels().end()) return -1;
  return at < found->second.sizes.size() ? long(found->second.sizes[at]) : 0;
}
API const char *koma_emu_error() {
  static thread_local std::string said;
  std::lock_guard<std::mutex> guard(error_lock);
  return said = last_error, said.c_str();
}
// For the stand-in of cuBLASLt: work on a stream of this thread's device.
API Result koma_emu_ask(void *handle, void (*run)(void *), void *what, void (*drop)(void *)) {
  std::shared_ptr<void> owned(what, drop);
  STREAM_CALL("koma_emu_ask", handle)
  stream->ask([run, owned] { run(owned.get()); });
  return success;
}

API Result cuInit(unsigned) { return success; }
API Result cuDriverGetVersion(int *version) { return *version = driver_version, success; }
API Result cuDeviceGetCount(int *count) { return *count = device_count, success; }
API Result cuDeviceGet(int *to, int number) { return number < 0 || number >= device_count ? invalid_device : (*to = number, success); }
API Result cuDeviceGetName(char *to, int length, int) { return snprintf(to, length, "host emulation"), success; }
API Result cuDeviceTotalMem_v2(size_t *bytes, int number) { return *bytes = device(number).settings["memory"], success; }
API Result cuDeviceGetAttribute(int *to, int attribute, int number) {
  Device &d = device(number);
  std::lock_guard<std::recursive_mutex> guard(d.lock);
  switch (attribute) {
    case 75: *to = d.settings["capability"] / 10; break;
    case 76: *to = d.settings["capability"] % 10; break;
    case 16: *to = 4; break;                         // multiprocessors
    case 97: *to = d.settings["shared"]; break;      // shared memory of a block, opted in
    default: return invalid_value;
  }
  return success;
}
API Result cuDevicePrimaryCtxRetain(void **to, int number) {
  std::lock_guard<std::recursive_mutex> guard(device(number).lock);
  if (device(number).broken) return device(number).broken;
  device(number).counts["contexts"]++;
  return *to = reinterpret_cast<void *>(size_t(number) + 1), success;
}
API Result cuDevicePrimaryCtxRelease_v2(int number) {
  std::lock_guard<std::recursive_mutex> guard(device(number).lock);
  device(number).wait();
  device(number).counts["contexts"]--;
  return success;
}
API Result cuCtxSetCurrent(void *context) { return current = int(reinterpret_cast<size_t>(context)) - 1, success; }
API Result cuMemGetInfo_v2(size_t *free, size_t *total) {
  CALL("cuMemGetInfo")
  size_t used = 0;
  for (auto &[at, bytes] : d->memory) used += bytes;
  *total = d->settings["memory"];
  *free = *total > used ? *total - used : 0;
  return success;
}
API Result cuMemAlloc_v2(Address *to, size_t bytes) {
  CALL("cuMemAlloc")
  if (d->capturing()) return capture_unsupported;
  if (bytes == 0) return invalid_value;
  size_t used = 0;
  for (auto &[at, size] : d->memory) used += size;
  if (used + bytes > size_t(d->settings["memory"]) || due(*d, "fail_alloc")) return out_of_memory;
  void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!memory) return out_of_memory;
  // NaN in every type of numbers that kernels know.
  memset(memory, 0xff, bytes);
  *to = reinterpret_cast<Address>(memory);
  d->memory[*to] = bytes;
  return success;
}
API Result cuMemFree_v2(Address at) {
  CALL("cuMemFree")
  if (d->capturing()) return capture_unsupported;
  // It waits for work that uses the memory.
  d->wait();
  if (!d->memory.erase(at)) return invalid_value;
  return free(reinterpret_cast<void *>(at)), success;
}
API Result cuMemAllocHost_v2(void **to, size_t bytes) {
  CALL("cuMemAllocHost")
  *to = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!*to) return out_of_memory;
  d->counts["pinned"]++;
  std::lock_guard<std::mutex> all(pinned_lock);
  pinned[static_cast<char *>(*to)] = bytes;
  return success;
}
API Result cuMemFreeHost(void *at) {
  CALL("cuMemFreeHost")
  d->counts["pinned"]--;
  std::lock_guard<std::mutex> all(pinned_lock);
  pinned.erase(static_cast<char *>(at));
  return free(at), success;
}
API Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *handle) {
  STREAM_CALL("cuMemcpyHtoD", handle)
  if (!inside(*d, to, bytes)) return invalid_value;
  void *place = reinterpret_cast<void *>(to);
  if (is_pinned(from, bytes)) return stream->ask([=] { memcpy(place, from, bytes); }), success;
  // Other memory was read when the call returns.
  const char *first = static_cast<const char *>(from);
  stream->ask([place, copy = std::vector<char>(first, first + bytes)] { memcpy(place, copy.data(), copy.size()); });
  return success;
}
API Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *handle) {
  STREAM_CALL("cuMemcpyDtoH", handle)
  d->counts["bytes_home"] += long(bytes);
  if (!inside(*d, from, bytes)) return invalid_value;
  stream->ask([=] { memcpy(to, reinterpret_cast<void *>(from), bytes); });
  if (!is_pinned(to, bytes)) stream->wait();
  return d->broken;
}
API Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *handle) {
  STREAM_CALL("cuMemcpyDtoD", handle)
  if (!inside(*d, from, bytes) || !inside(*d, to, bytes)) return invalid_value;
  stream->ask([=] { memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes); });
  return success;
}
API Result cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void *handle) {
  STREAM_CALL("cuMemsetD8", handle)
  if (!inside(*d, to, bytes)) return invalid_value;
  stream->ask([=] { memset(reinterpret_cast<void *>(to), value, bytes); });
  return success;
}
API Result cuStreamCreate(void **to, unsigned) {
  CALL("cuStreamCreate")
  auto stream = std::make_shared<emu::Stream>();
  stream->hurries = d->settings["hurry"] >> d->made++ % 2 & 1;
  *to = stream.get();
  d->streams[*to] = std::move(stream);
  return success;
}
API Result cuStreamDestroy_v2(void *handle) {
  STREAM_CALL("cuStreamDestroy", handle)
  stream->wait();
  return d->streams.erase(handle), success;
}
API Result cuStreamSynchronize(void *handle) {
  STREAM_CALL("cuStreamSynchronize", handle)
  if (stream->captured) return capture_unsupported;
  stream->wait();
  return d->broken;
}
API Result cuStreamWaitEvent(void *handle, void *event, unsigned) {
  STREAM_CALL("cuStreamWaitEvent", handle)
  if (stream->captured) return capture_unsupported;
  auto found = d->events.find(event);
  if (found == d->events.end()) return invalid_value;
  // The control: a stream that does not wait.
  if (!d->settings["deaf"]) stream->ask([now = found->second] { now.wait(); });
  return success;
}
API Result cuEventCreate(void **to, unsigned) {
  CALL("cuEventCreate")
  // The lowest numbers are left to other handles.
  *to = reinterpret_cast<void *>(size_t(++d->counts["cuEventCreate made"]));
  d->events[*to] = {};
  return success;
}
API Result cuEventDestroy_v2(void *event) {
  CALL("cuEventDestroy")
  return d->events.erase(event) ? success : invalid_value;
}
API Result cuEventRecord(void *event, void *handle) {
  STREAM_CALL("cuEventRecord", handle)
  if (stream->captured) return capture_unsupported;
  d->events[event] = {stream, stream->asked};
  return success;
}
API Result cuEventSynchronize(void *event) {
  CALL("cuEventSynchronize")
  auto found = d->events.find(event);
  if (found == d->events.end()) return invalid_value;
  emu::Event now = found->second;
  now.wait();
  return d->broken;
}
API Result cuStreamBeginCapture_v2(void *handle, int) {
  STREAM_CALL("cuStreamBeginCapture", handle)
  if (stream->captured || due(*d, "fail_capture")) return capture_unsupported;
  stream->captured = std::make_unique<std::vector<emu::Op>>();
  return success;
}
API Result cuStreamEndCapture(void *handle, void **to) {
  STREAM_CALL("cuStreamEndCapture", handle)
  if (!stream->captured) return invalid_value;
  auto *graph = new emu::Graph(std::move(*stream->captured));
  stream->captured.reset();
  d->graphs.insert(graph);
  return *to = graph, success;
}
API Result cuGraphInstantiateWithFlags(void **to, void *graph, unsigned long long) {
  CALL("cuGraphInstantiate")
  auto *ready = new emu::Graph(*static_cast<emu::Graph *>(graph));
  d->graphs.insert(ready);
  return *to = ready, success;
}
static Result drop_graph(Device *d, void *graph) {
  auto *known = static_cast<emu::Graph *>(graph);
  if (!d->graphs.erase(known)) return invalid_value;
  // Work that was asked for has a copy.
  return delete known, success;
}
API Result cuGraphDestroy(void *graph) {
  CALL("cuGraphDestroy")
  return drop_graph(d, graph);
}
API Result cuGraphExecDestroy(void *graph) {
  CALL("cuGraphExecDestroy")
  return drop_graph(d, graph);
}
API Result cuGraphLaunch(void *graph, void *handle) {
  STREAM_CALL("cuGraphLaunch", handle)
  for (emu::Op &op : *static_cast<emu::Graph *>(graph)) stream->ask(op);
  return success;
}
API Result cuModuleLoadData(void **to, const void *) {
  CALL("cuModuleLoadData")
  return *to = reinterpret_cast<void *>(1), success;
}
API Result cuModuleUnload(void *) { CALL("cuModuleUnload") return success; }
API Result cuModuleGetFunction(void **to, void *, const char *name) {
  CALL("cuModuleGetFunction")
  auto found = emu::kernels().find(name);
  if (found == emu::kernels().end()) return not_found;
  return *to = const_cast<std::pair<const std::string, emu::Kernel> *>(&*found), success;
}
API Result cuFuncSetAttribute(void *function, int attribute, int value) {
  CALL("cuFuncSetAttribute")
  // The most dynamic shared memory that the kernel may be launched with.
  if (attribute != 8 || value > d->settings["shared"]) return invalid_value;
  d->granted[static_cast<std::pair<const std::string, emu::Kernel> *>(function)->first] = value;
  return success;
}
// A kernel's arguments, as they were when it was launched.
struct Arguments {
  std::vector<unsigned long long> memory;
  std::vector<void *> places;

  Arguments(const std::vector<size_t> &sizes, void **from) {
    size_t words = 0;
    for (size_t size : sizes) words += (size + 7) / 8;
    memory.resize(words);
    size_t at = 0;
    for (size_t i = 0; i < sizes.size(); i++) {
      memcpy(&memory[at], from[i], sizes[i]);
      places.push_back(&memory[at]);
      at += (sizes[i] + 7) / 8;
    }
  }
};
API Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                          void *handle, void **arguments, void **) {
  STREAM_CALL("cuLaunchKernel", handle)
  auto *kernel = static_cast<std::pair<const std::string, emu::Kernel> *>(function);
  bool sizes = gx && gy && gz && bx && by && bz && gx <= 0x7fffffff && gy <= 65535 && gz <= 65535 && size_t(bx) * by * bz <= 1024;
  if (!sizes || shared > std::max(48l * 1024, d->granted[kernel->first])) return invalid_value;
  if (due(*d, "fail_launch")) return d->broken = launch_failed;
  auto kept = std::make_shared<Arguments>(kernel->second.sizes, arguments);
  stream->ask([=] {
    d->counts["launch:" + kernel->first]++;
    // Nothing runs on a device that is broken.
    if (d->broken) return;
    try {
      emu::launch(dim3(gx, gy, gz), dim3(bx, by, bz), shared, int(d->settings["seed"]), [&] { kernel->second.call(kept->places.data()); });
    } catch (std::exception &error) {
      std::lock_guard<std::mutex> guard(error_lock);
      last_error = kernel->first + ": " + error.what();
      d->broken = launch_failed;
    }
  });
  return success;
}
API Result cuGetErrorName(Result error, const char **to) {
  switch (error) {
    case invalid_value: *to = "CUDA_ERROR_INVALID_VALUE"; break;
    case out_of_memory: *to = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case invalid_device: *to = "CUDA_ERROR_INVALID_DEVICE"; break;
    case not_found: *to = "CUDA_ERROR_NOT_FOUND"; break;
    case capture_unsupported: *to = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; break;
    case launch_failed: *to = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: *to = "CUDA_ERROR_UNKNOWN";
  }
  return success;
}
