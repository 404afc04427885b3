// Helper threads that share a kernel's work while they have a core to run on.
//
// The caller does the work itself and helpers take pieces of it. A helper that is not running, because its
// core is busy with something else, is not waited for: only a piece that it has already taken is. So a step
// never stands still for a thread that has to be scheduled first, as it does at the barriers of OpenMP.

#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>

// Tells the CPU that this thread waits.
inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  asm volatile("yield");
#endif
}

class Pool {
 public:
  // The pool of this process. It lives until the process ends.
  static Pool& instance() {
    static Pool* pool = new Pool;
    return *pool;
  }

  // Threads to use from now on, the caller's included. Threads are started when first needed and kept.
  void set_threads(int64_t threads) {
    const std::lock_guard guard(busy_);
    wanted_.store(threads - 1, std::memory_order_relaxed);
    for (; started_ < threads - 1; ++started_) std::thread([this, id = started_] { help(id); }).detach();
  }

  // How many threads a caller has, itself included, unless another one has the helpers.
  int64_t threads() const { return wanted_.load(std::memory_order_relaxed) + 1; }

  // Runs work(i) for every i below count and returns when all are done. Threads take runs of neighbours, so
  // that each reads memory in long stretches. A pool that is busy with another caller leaves this one to
  // itself.
  template <typename Work>
  void run(int64_t count, const Work& work) {
    std::unique_lock guard(busy_, std::try_to_lock);
    const int64_t helpers = wanted_.load(std::memory_order_relaxed);
    if (!guard.owns_lock() || helpers == 0 || count < 2) {
      for (int64_t index = 0; index < count; ++index) work(index);
      return;
    }
    const int64_t length = std::max<int64_t>(1, count / (kPieces * (helpers + 1)));
    const auto piece = [&](int64_t index) {
      const int64_t end = std::min(count, (index + 1) * length);
      for (int64_t one = index * length; one < end; ++one) work(one);
    };
    share((count + length - 1) / length, piece);
  }

 private:
  static constexpr int64_t kPieces = 4;  // that each thread takes, if all run equally fast
  static constexpr uint64_t kClosed = 0xffffffff;
  static constexpr auto kSpin = std::chrono::microseconds(100);

  using Call = void (*)(const void*, int64_t);

  template <typename Work>
  void share(int64_t count, const Work& work) {
    const uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    // Closed before it is rewritten, so that nobody takes a piece of half a job.
    ticket_.store(generation << 32 | kClosed, std::memory_order_seq_cst);
    count_.store(count, std::memory_order_relaxed);
    work_.store(&work, std::memory_order_relaxed);
    call_.store(&Pool::call<Work>, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    ticket_.store(generation << 32, std::memory_order_seq_cst);
    ticket_.notify_all();
    while (take()) {
    }
    while (done_.load(std::memory_order_acquire) < count) relax();
  }

  template <typename Work>
  static void call(const void* work, int64_t index) {
    (*static_cast<const Work*>(work))(index);
  }

  // Takes and does one piece of the present job; false when none is left.
  bool take() {
    uint64_t ticket = ticket_.load(std::memory_order_seq_cst);
    while (true) {
      const uint64_t index = ticket & kClosed;
      const int64_t count = count_.load(std::memory_order_relaxed);
      const Call call = call_.load(std::memory_order_relaxed);
      const void* work = work_.load(std::memory_order_relaxed);
      if (index == kClosed || static_cast<int64_t>(index) >= count) return false;
      // What was read belongs to this ticket, or the exchange fails.
      if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_seq_cst)) {
        call(work, static_cast<int64_t>(index));
        done_.fetch_add(1, std::memory_order_release);
        return true;
      }
    }
  }

  void help(int64_t id) {
    while (true) {
      const auto until = std::chrono::steady_clock::now() + kSpin;
      while (std::chrono::steady_clock::now() < until) {
        if (id >= wanted_.load(std::memory_order_relaxed)) break;
        if (take()) break;
        relax();
      }
      if (id < wanted_.load(std::memory_order_relaxed) && take()) continue;
      const uint64_t seen = ticket_.load(std::memory_order_seq_cst);
      if (idle(seen)) ticket_.wait(seen, std::memory_order_seq_cst);
    }
  }

  bool idle(uint64_t ticket) const {
    const uint64_t index = ticket & kClosed;
    return index == kClosed ||
           static_cast<int64_t>(index) >= count_.load(std::memory_order_relaxed);
  }

  std::mutex busy_;
  int64_t started_ = 0;
  std::atomic<int64_t> wanted_{0};
  alignas(64) std::atomic<uint64_t> ticket_{kClosed};
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<int64_t> count_{0};
  std::atomic<const void*> work_{nullptr};
  std::atomic<Call> call_{nullptr};
};
