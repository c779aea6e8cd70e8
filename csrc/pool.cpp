#include "pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static constexpr int kSpins = 2000;  // some 20 to 40 microseconds: longer than a stage's imbalance

static void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
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

void Pool::await_change(const Word& word, uint32_t old) {
  for (int i = 0; i < kSpins; i++) {
    if (word.load(std::memory_order_acquire) != old) return;
    pause_briefly();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

void Pool::barrier() {
  if (size_ == 1) return;
  const uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == (uint32_t)size_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_acq_rel);
    generation_.notify_all();
  } else {
    await_change(generation_, generation);
  }
}

void Pool::run(const std::function<void(int)>& body) {
  body_ = &body;
  if (size_ > 1) {
    job_.fetch_add(1, std::memory_order_acq_rel);
    job_.notify_all();
  }
  body(0);
  barrier();
}

void Pool::work(int index) {
  uint32_t seen = 0;
  for (;;) {
    await_change(job_, seen);
    seen++;
    if (stop_) return;
    (*body_)(index);
    barrier();
  }
}
