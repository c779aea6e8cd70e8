#include "pool.h"

#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "sleep.h"

static constexpr int kSpins = 2000;  // some 20 to 40 microseconds: longer than a stage's imbalance

static void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

static void give_up() {
  if (before_sleep) std::exchange(before_sleep, nullptr)();
}

void await_change(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; i++) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_briefly();
  }
  give_up();
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

Pool::Pool(int threads) : size_(threads) {
  for (int i = 1; i < threads; i++) threads_.emplace_back([this, i] { work(i); });
}

Pool::~Pool() {
  stop_ = true;
  job_++;
  job_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void Pool::run(const std::function<void(int)>& body) {
  if (size_ == 1) return body(0), give_up();
  body_ = &body;
  job_++;
  job_.notify_all();
  body(0);
  // From here on nobody enters: work checks job_ after it has announced itself, this thread the other way round.
  job_++;
  for (uint32_t n; (n = inside_.load()) > 0;) await_change(inside_, n);
  give_up();
}

void Pool::work(int index) {
  for (uint32_t seen = 0;;) {
    await_change(job_, seen);
    seen = job_;
    if (stop_) return;
    if (seen % 2 == 0) continue;
    inside_++;
    if (job_ == seen) (*body_)(index);
    inside_--;
    inside_.notify_all();
  }
}
