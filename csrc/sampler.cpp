#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "philox.h"

static constexpr uint32_t kSeen = 1u << 31;  // above the count of occurrences in the output
static constexpr float kLargest = std::numeric_limits<float>::max();

using Candidate = std::pair<float, int32_t>;

static bool likelier(const Candidate& a, const Candidate& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

static bool is_set(const uint32_t* mask, int id) { return mask[id / 32] >> id % 32 & 1; }

Sampler::Sampler(const Kernels& kernels, int vocab_size)
    : kernels_(kernels), vocab_size_(vocab_size), adjusted_(vocab_size), terms_(vocab_size),
      sums_(vocab_size / kSumBlock + 1), counts_(vocab_size) {
  touched_.reserve(vocab_size);
  kept_.reserve(vocab_size);
}

bool Sampler::sample(const float* logits, const RowParams& params, RowResult& result) {
  bool finite;
  const float max = kernels_.max_value(logits, vocab_size_, &finite);
  if (!finite) return false;
  result.token = params.target >= 0 ? params.target : choose(logits, max, params);
  if (result.token < 0) return false;
  if (params.num_logprobs >= 0)
    report(logits, max, params, result);
  else
    result.logprob = std::numeric_limits<float>::quiet_NaN();
  return true;
}

// A token for the logits, whose largest is max; -1 where no id may be drawn.
int Sampler::choose(const float* logits, float max, const RowParams& params) {
  const float* changed = adjust(logits, params, max);
  if (max == -std::numeric_limits<float>::infinity()) return -1;
  const int token = params.temperature == 0 ? (int)(std::find(changed, changed + vocab_size_, max) - changed)
                                            : draw(changed, max, params);
  return params.mask && !is_set(params.mask, token) ? -1 : token;  // a bug, and nobody may see it
}

// What is drawn from: the logits, or changed ones and then their largest.
const float* Sampler::adjust(const float* logits, const RowParams& p, float& max) {
  const float* penalized = penalize(logits, p);
  bool finite;
  if (p.mask) {
    max = kernels_.masked(penalized, vocab_size_, p.mask, adjusted_.data());
    return adjusted_.data();
  }
  if (penalized != logits) max = kernels_.max_value(penalized, vocab_size_, &finite);
  return penalized;
}

// After penalties and biases.
const float* Sampler::penalize(const float* logits, const RowParams& p) {
  if (!p.history_size && !p.bias_size) return logits;
  std::copy(logits, logits + vocab_size_, adjusted_.begin());
  touched_.clear();
  for (int i = 0; i < p.history_size; i++) {
    const int32_t id = p.history[i];
    if (!(counts_[id] & kSeen)) touched_.push_back(id);
    counts_[id] = (counts_[id] | kSeen) + (i >= p.history_prompt);
  }
  for (int32_t id : touched_) {
    const uint32_t count = counts_[id] & ~kSeen;
    float& x = adjusted_[id];
    x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
    x -= p.frequency_penalty * (float)count + p.presence_penalty * (count > 0);
    counts_[id] = 0;
  }
  for (int i = 0; i < p.bias_size; i++) adjusted_[p.bias_ids[i]] += p.bias_values[i];
  for (int32_t id : touched_) adjusted_[id] = std::clamp(adjusted_[id], -kLargest, kLargest);
  return adjusted_.data();
}

int Sampler::draw(const float* logits, float max, const RowParams& params) {
  kernels_.softmax_terms(logits, vocab_size_, params.temperature, max, terms_.data(), sums_.data());
  double total = 0;
  for (int i = 0; i * kSumBlock < vocab_size_; i++) total += sums_[i];
  const double u = uniform(params.seed, params.position);
  const bool cut = params.top_k > 0 && params.top_k < vocab_size_;
  if (!cut && params.top_p >= 1 && params.min_p <= 0) return draw_from_all(u, total);
  filter(params, total);
  return draw_gathered(u);
}

// Collects the candidates whose term (1 for the likeliest) is at least `least`, in rising id order.
void Sampler::gather(float least) {
  kept_.clear();
  for (int block = 0; block * kSumBlock < vocab_size_; block++) {
    if (sums_[block] < least) continue;  // a sum of terms is no smaller than the largest of them
    const int end = std::min(vocab_size_, (block + 1) * kSumBlock);
    for (int i = block * kSumBlock; i < end; i++)
      if (terms_[i] >= least) kept_.emplace_back(terms_[i], i);
  }
}

// Leaves the shortest run of the likeliest whose sum is at least `mass`, and at least one. Halves the range in which it
// ends until that is short enough to sort.
void Sampler::keep_mass(double mass) {
  auto first = kept_.begin(), last = kept_.end();
  while (last - first > 64) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, likelier);
    double half = 0;
    for (auto c = first; c < middle; ++c) half += c->first;
    if (half >= mass)
      last = middle;
    else
      mass -= half, first = middle;
  }
  std::sort(first, last, likelier);
  double sum = 0;
  auto end = first;
  while (end < last && (end == kept_.begin() || sum < mass)) sum += (end++)->first;
  kept_.erase(end, kept_.end());
}

// Leaves in kept_ what top_k, top_p and min_p keep. Only as many candidates are sorted as can matter.
void Sampler::filter(const RowParams& params, double total) {
  const bool by_count = params.top_k > 0 && params.top_k < vocab_size_, by_mass = params.top_p < 1;
  if (!by_count && !by_mass) return gather(params.min_p);
  for (float least : {0x1p-8f, 0x1p-14f, 0x1p-22f, 0.0f}) {
    gather(least);
    double mass = 0;
    for (const Candidate& c : kept_) mass += c.first;
    const bool enough = by_count ? kept_.size() >= (size_t)params.top_k : mass >= params.top_p * total;
    if (enough) break;
  }
  if (by_count) {
    std::nth_element(kept_.begin(), kept_.begin() + params.top_k - 1, kept_.end(), likelier);
    kept_.resize(params.top_k);
    total = 0;
    for (const Candidate& c : kept_) total += c.first;
  }
  if (by_mass) keep_mass(params.top_p * total);
  std::erase_if(kept_, [&](const Candidate& c) { return c.first < params.min_p; });
  std::sort(kept_.begin(), kept_.end(), [](const Candidate& a, const Candidate& b) { return a.second < b.second; });
}

int Sampler::draw_gathered(double u) const {
  double total = 0, sum = 0;
  for (const Candidate& c : kept_) total += c.first;
  for (const Candidate& c : kept_)
    if ((sum += c.first) > u * total) return c.second;
  return kept_.back().second;
}

int Sampler::draw_from_all(double u, double total) const {
  double before = 0;
  int block = 0;
  const int blocks = (vocab_size_ + kSumBlock - 1) / kSumBlock;
  while (block + 1 < blocks && before + sums_[block] <= u * total) before += sums_[block++];
  int last = -1;
  for (int i = block * kSumBlock; i < vocab_size_ && i < (block + 1) * kSumBlock; i++) {
    if ((before += terms_[i]) > u * total) return i;
    if (terms_[i] > 0) last = i;
  }
  // The block's sum was rounded up past its terms: its last possible token. An empty tail falls back to the likeliest.
  return last >= 0 ? last : (int)(std::max_element(terms_.begin(), terms_.end()) - terms_.begin());
}

void Sampler::report(const float* logits, float max, const RowParams& params, RowResult& result) {
  kernels_.softmax_terms(logits, vocab_size_, 1.0f, max, terms_.data(), sums_.data());
  double total = 0;
  for (int i = 0; i * kSumBlock < vocab_size_; i++) total += sums_[i];
  const double log_total = std::log(total);
  auto logprob = [&](int id) { return (float)((double)logits[id] - max - log_total); };
  result.logprob = logprob(result.token);
  const size_t n = std::min(params.num_logprobs, vocab_size_);
  kept_.clear();
  for (int i = 0; n && i < vocab_size_; i++) {
    if (kept_.size() == n && logits[i] <= kept_.back().first) continue;
    if (kept_.size() == n) kept_.pop_back();
    const Candidate c{logits[i], i};
    kept_.insert(std::upper_bound(kept_.begin(), kept_.end(), c, likelier), c);
  }
  for (size_t i = 0; i < kept_.size(); i++)
    result.top_ids[i] = kept_[i].second, result.top_logprobs[i] = logprob(kept_[i].second);
}
