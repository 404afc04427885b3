// Helper threads that share a kernel's work while they have a core to run on.
//
// The caller does the work itself and helpers take pieces of it. A helper that is not running, because its
// core is busy with something else, is not waited for: only a piece that it has already taken is. So a step
// never stands still for a thread that has to be scheduled first, as it does at the barriers of OpenMP.

#pragma once

#include <cstdint>

class Pool {
 public:
  // The pool of this process. It lives until the process ends.
  static Pool& instance();

  // Threads to use from now on, the caller's included. Threads are started when first needed and kept.
  void set_threads(int64_t threads);

  // How many threads a caller has, itself included, unless another one has the helpers.
  int64_t threads() const;

  // Runs work(i) for every i below count and returns when all are done. Threads take runs of neighbours, so
  // that each reads memory in long stretches. A pool that is busy with another caller leaves this one to
  // itself.
  template <typename Work>
  void run(int64_t count, const Work& work) {
    share(count, &call<Work>, &work);
  }

 private:
  // Of pool.cpp, as every source would compile what it is made of.
  class Helpers;
  using Call = void (*)(const void* work, int64_t begin, int64_t end);

  explicit Pool(Helpers& helpers) : helpers_(helpers) {}

  template <typename Work>
  static void call(const void* work, int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) (*static_cast<const Work*>(work))(index);
  }

  void share(int64_t count, Call call, const void* work);

  Helpers& helpers_;
};
