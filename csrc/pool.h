// Threads of one model. They spin briefly for each other, then sleep: transports and other processes share the cores.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

class Pool {
 public:
  explicit Pool(int threads);  // the caller of run is one of them
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return size_; }

  // Calls body(0) here and body(i) on every other thread, and returns when all have. body must not throw.
  void run(const std::function<void(int)>& body);

  // Inside a body: waits until every thread of the pool has arrived.
  void barrier();

 private:
  using Word = std::atomic<uint32_t>;
  void work(int index);
  static void await_change(const Word& word, uint32_t old);

  const int size_;
  alignas(64) Word generation_{0};
  alignas(64) Word arrived_{0};
  alignas(64) Word job_{0};
  alignas(64) std::atomic<bool> stop_{false};
  const std::function<void(int)>* body_ = nullptr;
  std::vector<std::thread> threads_;
};

// Hands out 0, 1, ... once each. Which thread gets which unit never changes a result.
struct alignas(64) Counter {
  std::atomic<int> next{0};
  int take() { return next.fetch_add(1, std::memory_order_relaxed); }
};
