// Draws one token from one row of logits, as docs/sampling.md says.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels.h"

struct RowParams {
  float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  int top_k;
  uint64_t seed;
  int position, num_logprobs;
  const int32_t* history;
  int history_size, history_prompt;
  const int32_t* bias_ids;
  const float* bias_values;
  int bias_size;
  const uint32_t* mask;  // a bit per id: whether it may be drawn. Null: all may
  int32_t target;  // the token whose log-probabilities are asked for; -1: one is drawn
};

struct RowResult {
  int32_t token;
  float logprob;
  int32_t* top_ids;  // num_logprobs of them
  float* top_logprobs;
};

// One thread's scratch memory for a vocabulary.
class Sampler {
 public:
  Sampler(const Kernels& kernels, int vocab_size);

  // False if a logit is NaN or infinite, or no id may be drawn: then nothing was. logits are not changed.
  bool sample(const float* logits, const RowParams& params, RowResult& result);

 private:
  int choose(const float* logits, float max, const RowParams& params);
  const float* adjust(const float* logits, const RowParams& params, float& max);
  const float* penalize(const float* logits, const RowParams& params);
  int draw(const float* logits, float max, const RowParams& params);
  void gather(float least);
  void filter(const RowParams& params, double total);
  void keep_mass(double mass);
  int draw_gathered(double u) const;
  int draw_from_all(double u, double total) const;
  void report(const float* logits, float max, const RowParams& params, RowResult& result);

  const Kernels& kernels_;
  const int vocab_size_;
  std::vector<float> adjusted_, terms_, sums_;
  std::vector<uint32_t> counts_;
  std::vector<int32_t> touched_;
  std::vector<std::pair<float, int32_t>> kept_;
};
