// Threads of one model. They spin briefly for each other, then sleep: transports and other processes share the cores.
//
// A job is a row of stages, a stage a number of units. No thread waits for another that holds no unit: a thread that the
// system has put aside joins again at the stage that is then at hand, and the others do its share meanwhile.
#pragma once
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

class Pool {
 public:
  explicit Pool(int threads);  // the caller of run is one of them
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return size_; }

  // Calls body(0) here and body(i) on those other threads that come in time, and returns when all are out of it.
  // Each body must do whatever work it finds left. It must not throw.
  void run(const std::function<void(int)>& body);

 private:
  void work(int index);

  const int size_;
  alignas(64) std::atomic<uint32_t> job_{0};  // odd while a job is open
  alignas(64) std::atomic<uint32_t> inside_{0};
  alignas(64) std::atomic<bool> stop_{false};
  const std::function<void(int)>* body_ = nullptr;
  std::vector<std::thread> threads_;
};

// Spins, then gives up what before_sleep names, and sleeps until the value is not `old`. Whoever changes it must notify.
void await_change(const std::atomic<uint32_t>& value, uint32_t old);

// A thread's place among those that share a stage's units.
struct Place {
  int thread = 0, threads = 1;
};

// Hands out units once each. Every thread has a range of them, so that from stage to stage it finds in its own cache what it
// wrote; when that is done it takes from the others'. Which thread gets which never changes a result.
class alignas(64) Stage {
 public:
  void reset() {
    for (Range& range : ranges_) range.next.store(0, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    finished_.store(0, std::memory_order_relaxed);
  }
  bool finished() const { return finished_.load(std::memory_order_acquire); }

  // Whose range a unit is in: the inverse of `first`.
  static int owner(int unit, int units, int threads) { return (int)(((unit + 1L) * count(threads) - 1) / units); }

  // Computes units until none is left, then waits until those of the other threads are done too.
  template <class F>
  void run(int units, Place place, F compute) {
    const int ranges = count(place.threads);
    for (int i = 0; i < ranges; i++) {
      const int r = (place.thread + i) % ranges, begin = first(r, ranges, units), end = first(r + 1, ranges, units);
      for (int u; (u = begin + ranges_[r].next.fetch_add(1, std::memory_order_relaxed)) < end;) {
        compute(u);
        if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 < units) continue;
        finished_.store(1);  // sequentially consistent: notify_all must not look for sleepers before this is seen
        finished_.notify_all();
      }
    }
    if (units > 0) await_change(finished_, 0);
  }
  template <class F>
  void run(int units, F compute) {
    run(units, {}, compute);
  }

 private:
  static constexpr int kRanges = 8;
  struct alignas(64) Range {
    std::atomic<int> next{0};
  };
  static int count(int threads) { return threads < kRanges ? threads : kRanges; }
  static int first(int range, int ranges, int units) { return (int)((long)range * units / ranges); }

  Range ranges_[kRanges];
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<uint32_t> finished_{0};
};
