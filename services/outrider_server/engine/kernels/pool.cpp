// The pool of this process, and how its threads take pieces of a job.

#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>

namespace {

// Tells the CPU that this thread waits.
void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

}  // namespace

class Pool::Helpers {
 public:
  void set_threads(int64_t threads) {
    const std::lock_guard guard(busy_);
    wanted_.store(threads - 1, std::memory_order_relaxed);
    for (; started_ < threads - 1; ++started_) std::thread([this, id = started_] { help(id); }).detach();
  }

  int64_t count() const { return wanted_.load(std::memory_order_relaxed); }

  void share(int64_t count, Call call, const void* work) {
    std::unique_lock guard(busy_, std::try_to_lock);
    const int64_t helpers = wanted_.load(std::memory_order_relaxed);
    if (!guard.owns_lock() || helpers == 0 || count < 2) return call(work, 0, count);
    const int64_t length = std::max<int64_t>(1, count / (kPieces * (helpers + 1)));
    run({call, work, count, length, (count + length - 1) / length});
  }

 private:
  static constexpr int64_t kPieces = 4;  // that each thread takes, if all run equally fast
  static constexpr uint64_t kClosed = 0xffffffff;
  static constexpr auto kSpin = std::chrono::microseconds(100);

  // Work for every index below `count`, in pieces of `length`.
  struct Job {
    Call call;
    const void* work;
    int64_t count, length, pieces;

    void run(int64_t piece) const { call(work, piece * length, std::min(count, (piece + 1) * length)); }
  };

  void run(const Job& job) {
    const uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    // Closed before it is rewritten, so that nobody takes a piece of half a job.
    ticket_.store(generation << 32 | kClosed, std::memory_order_seq_cst);
    pieces_.store(job.pieces, std::memory_order_relaxed);
    job_.store(&job, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    ticket_.store(generation << 32, std::memory_order_seq_cst);
    ticket_.notify_all();
    while (take()) {
    }
    while (done_.load(std::memory_order_acquire) < job.pieces) relax();
  }

  // Takes and does one piece of the present job; false when none is left.
  bool take() {
    uint64_t ticket = ticket_.load(std::memory_order_seq_cst);
    while (true) {
      const uint64_t index = ticket & kClosed;
      const int64_t pieces = pieces_.load(std::memory_order_relaxed);
      const Job* job = job_.load(std::memory_order_relaxed);
      if (index == kClosed || static_cast<int64_t>(index) >= pieces) return false;
      // What was read belongs to this ticket, or the exchange fails.
      if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_seq_cst)) {
        job->run(static_cast<int64_t>(index));
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
    return index == kClosed || static_cast<int64_t>(index) >= pieces_.load(std::memory_order_relaxed);
  }

  std::mutex busy_;
  int64_t started_ = 0;
  std::atomic<int64_t> wanted_{0};
  alignas(64) std::atomic<uint64_t> ticket_{kClosed};
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<int64_t> pieces_{0};
  std::atomic<const Job*> job_{nullptr};
};

Pool& Pool::instance() {
  static Pool* pool = new Pool(*new Helpers);
  return *pool;
}

void Pool::set_threads(int64_t threads) { helpers_.set_threads(threads); }

int64_t Pool::threads() const { return helpers_.count() + 1; }

void Pool::share(int64_t count, Call call, const void* work) { helpers_.share(count, call, work); }
