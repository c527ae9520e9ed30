// A stand-in of `libcuda`: memory of the host, launches that run the emulated kernels at once. It holds its caller to what the
// driver asks for (copies inside of allocations, sizes of grids and of shared memory), counts what is asked for, and fails on
// demand. Each of its devices is a world of its own, so that tests can run side by side.
//
// Everything happens in the order of the calls: it shows which calls are made and in which order, nothing about streams that
// overtake each other.
#include "registry.h"
#include <map>
#include <cstdio>
#include <mutex>

std::map<std::string, emu::Kernel> &emu::kernels() {
  static std::map<std::string, emu::Kernel> all;
  return all;
}

namespace {

using Result = int;
using Address = unsigned long long;
enum : Result {
  success = 0, invalid_value = 1, out_of_memory = 2, invalid_device = 101, invalid_context = 201, not_found = 500, launch_failed = 719,
};

constexpr int device_count = 256;

struct Device {
  int number = 0;
  std::map<Address, size_t> memory;      // what is allocated, with its bytes
  std::map<std::string, long> counts;    // of calls, and of launches by name ("launch:NAME")
  std::map<std::string, long> settings;  // see `koma_emu_set`
  Result broken = success;               // what every call answers from now on
  std::map<std::string, long> granted;   // dynamic shared memory that a kernel may take
};

std::recursive_mutex lock;

Device &device(int number) {
  static std::vector<Device> all = [] {
    std::vector<Device> all(device_count);
    for (int i = 0; i < device_count; i++) {
      all[i].number = i;
      all[i].settings = {{"capability", 80}, {"memory", 1 << 30}, {"seed", -1}, {"shared", 99 * 1024}};
    }
    return all;
  }();
  return all[number];
}

int driver_version = 13000;
thread_local int current = -1;
thread_local std::string last_error;

// Counts down a setting; true when it reaches 0.
bool due(Device &d, const char *setting) {
  auto at = d.settings.find(setting);
  return at != d.settings.end() && at->second > 0 && --at->second == 0;
}

// The device of this thread, its call counted; null with `result` if there is none or it is broken.
Device *called(const char *what, Result &result) {
  if (current < 0) return result = invalid_context, nullptr;
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

#define CALL(...)                                    \
  std::lock_guard<std::recursive_mutex> guard(lock); \
  Result result = success;                           \
  Device *d = called(__VA_ARGS__, result);           \
  if (!d) return result;
#define API extern "C" __attribute__((visibility("default")))

// What tests set: "seed" (order of threads, -1: as they are numbered), "capability" (of 80), "memory" (bytes), "shared" (bytes that a
// block may have at most), and countdowns of calls: "fail_alloc", "fail_launch", "lose" (the device, at any call).
API void koma_emu_set(int number, const char *what, long value) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (std::string(what) == "driver") driver_version = int(value);
  else device(number).settings[what] = value;
}
API long koma_emu_get(int number, const char *what) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  Device &d = device(number);
  if (std::string(what) == "allocations") return long(d.memory.size());
  return d.counts[what];
}
// The bytes of argument `at` of a kernel; 0 behind the last, -1 if there is no such kernel.
API long koma_emu_argument(const char *kernel, unsigned at) {
  auto found = emu::kernels().find(kernel);
  if (found == emu::kernels().end()) return -1;
  return at < found->second.sizes.size() ? long(found->second.sizes[at]) : 0;
}
API const char *koma_emu_error() { return last_error.c_str(); }

API Result cuInit(unsigned) { return success; }
API Result cuDriverGetVersion(int *version) { return *version = driver_version, success; }
API Result cuDeviceGetCount(int *count) { return *count = device_count, success; }
API Result cuDeviceGet(int *to, int number) { return number < 0 || number >= device_count ? invalid_device : (*to = number, success); }
API Result cuDeviceGetName(char *to, int length, int) { return snprintf(to, length, "host emulation"), success; }
API Result cuDeviceTotalMem_v2(size_t *bytes, int number) { return *bytes = device(number).settings["memory"], success; }
API Result cuDeviceGetAttribute(int *to, int attribute, int number) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  Device &d = device(number);
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
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (device(number).broken) return device(number).broken;
  device(number).counts["contexts"]++;
  return *to = reinterpret_cast<void *>(size_t(number) + 1), success;
}
API Result cuDevicePrimaryCtxRelease_v2(int number) {
  std::lock_guard<std::recursive_mutex> guard(lock);
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
  if (!d->memory.erase(at)) return invalid_value;
  return free(reinterpret_cast<void *>(at)), success;
}
API Result cuMemAllocHost_v2(void **to, size_t bytes) {
  CALL("cuMemAllocHost")
  *to = aligned_alloc(256, (bytes + 255) / 256 * 256);
  d->counts["pinned"]++;
  return *to ? success : out_of_memory;
}
API Result cuMemFreeHost(void *at) {
  CALL("cuMemFreeHost")
  d->counts["pinned"]--;
  return free(at), success;
}
API Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *) {
  CALL("cuMemcpyHtoD")
  if (!inside(*d, to, bytes)) return invalid_value;
  return memcpy(reinterpret_cast<void *>(to), from, bytes), success;
}
API Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *) {
  CALL("cuMemcpyDtoH")
  d->counts["bytes_home"] += long(bytes);
  if (!inside(*d, from, bytes)) return invalid_value;
  return memcpy(to, reinterpret_cast<void *>(from), bytes), success;
}
API Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *) {
  CALL("cuMemcpyDtoD")
  if (!inside(*d, from, bytes) || !inside(*d, to, bytes)) return invalid_value;
  return memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes), success;
}
API Result cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void *) {
  CALL("cuMemsetD8")
  if (!inside(*d, to, bytes)) return invalid_value;
  return memset(reinterpret_cast<void *>(to), value, bytes), success;
}
API Result cuStreamCreate(void **to, unsigned) {
  CALL("cuStreamCreate")
  return *to = reinterpret_cast<void *>(size_t(d->counts["streams"]++) + 1), success;
}
API Result cuStreamDestroy_v2(void *) {
  CALL("cuStreamDestroy")
  return d->counts["streams"]--, success;
}
API Result cuStreamSynchronize(void *) { CALL("cuStreamSynchronize") return success; }
API Result cuStreamWaitEvent(void *, void *, unsigned) { CALL("cuStreamWaitEvent") return success; }
API Result cuEventCreate(void **to, unsigned) {
  CALL("cuEventCreate")
  return *to = reinterpret_cast<void *>(size_t(d->counts["events"]++) + 1), success;
}
API Result cuEventDestroy_v2(void *) {
  CALL("cuEventDestroy")
  return d->counts["events"]--, success;
}
API Result cuEventRecord(void *, void *) { CALL("cuEventRecord") return success; }
API Result cuEventSynchronize(void *) { CALL("cuEventSynchronize") return success; }
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
API Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                          void *, void **arguments, void **) {
  const std::pair<const std::string, emu::Kernel> *kernel;
  long seed;
  int number = current;
  {
    CALL("cuLaunchKernel")
    kernel = static_cast<std::pair<const std::string, emu::Kernel> *>(function);
    d->counts["launch:" + kernel->first]++;
    bool sizes = gx && gy && gz && bx && by && bz && gx <= 0x7fffffff && gy <= 65535 && gz <= 65535 && size_t(bx) * by * bz <= 1024;
    if (!sizes || shared > std::max(48l * 1024, d->granted[kernel->first])) return invalid_value;
    if (due(*d, "fail_launch")) return d->broken = launch_failed;
    seed = d->settings["seed"];
  }
  try {
    emu::launch(dim3(gx, gy, gz), dim3(bx, by, bz), shared, int(seed), [&] { kernel->second.call(arguments); });
    return success;
  } catch (std::exception &error) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    last_error = kernel->first + ": " + error.what();
    return device(number).broken = launch_failed;
  }
}
API Result cuGetErrorName(Result error, const char **to) {
  switch (error) {
    case invalid_value: *to = "CUDA_ERROR_INVALID_VALUE"; break;
    case out_of_memory: *to = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case invalid_device: *to = "CUDA_ERROR_INVALID_DEVICE"; break;
    case not_found: *to = "CUDA_ERROR_NOT_FOUND"; break;
    case launch_failed: *to = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: *to = "CUDA_ERROR_UNKNOWN";
  }
  return success;
}
