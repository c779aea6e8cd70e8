// The Python module llamastream.engine._core: weights, model, and the parts that tests look at alone.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "model.h"
#include "peak.h"
#include "philox.h"
#include "weights.h"

namespace nb = nanobind;

template <class T, int N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, int N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

// Casts the elements of a tuple of arrays one after the other, and says which one does not fit.
class Reader {
 public:
  Reader(const char* what, nb::tuple t, size_t size) : what_(what), tuple_(t) {
    if (t.size() != size) fail("must hold " + std::to_string(size) + " arrays");
  }
  template <class A>
  A next() {
    nb::handle item = tuple_[at_++];
    A a;
    if (!nb::try_cast<A>(item, a, false)) fail("array " + std::to_string(at_ - 1) + " has another type or rank");
    return a;
  }
  template <class A>
  A next(size_t size) {
    A a = next<A>();
    if (a.shape(0) != size)
      fail("array " + std::to_string(at_ - 1) + " must hold " + std::to_string(size) + " entries. Given: " +
           std::to_string(a.shape(0)));
    return a;
  }
  [[noreturn]] void fail(const std::string& problem) const {
    throw std::invalid_argument(std::string(what_) + " " + problem + ".");
  }

 private:
  const char* what_;
  nb::tuple tuple_;
  size_t at_ = 0;
};

static void check_ragged(const Reader& r, const In<int32_t, 1>& offsets, size_t total) {
  int32_t last = 0;
  for (size_t i = 0; i < offsets.shape(0); i++) {
    if (offsets(i) < last || (size_t)offsets(i) > total) r.fail("offsets must rise from 0 to the number of ids");
    last = offsets(i);
  }
}

static void check_ids(const Reader& r, const In<int32_t, 1>& ids, int vocab_size) {
  for (size_t i = 0; i < ids.shape(0); i++)
    if (ids(i) < 0 || ids(i) >= vocab_size) r.fail("ids must be in the vocabulary");
}

// Keeps the arrays alive while RowParams point into them.
struct Sampling {
  In<float, 1> temperature, top_p, min_p, repetition, presence, frequency, bias_values;
  In<int32_t, 1> top_k, position, num_logprobs, history, history_offsets, history_prompt, bias_ids, bias_offsets;
  In<uint64_t, 1> seed;

  Sampling(nb::tuple t, size_t n, int vocab_size) {
    Reader r("sampling", t, 16);
    temperature = r.next<In<float, 1>>(n), top_p = r.next<In<float, 1>>(n), top_k = r.next<In<int32_t, 1>>(n);
    min_p = r.next<In<float, 1>>(n), repetition = r.next<In<float, 1>>(n), presence = r.next<In<float, 1>>(n);
    frequency = r.next<In<float, 1>>(n), seed = r.next<In<uint64_t, 1>>(n), position = r.next<In<int32_t, 1>>(n);
    num_logprobs = r.next<In<int32_t, 1>>(n), history = r.next<In<int32_t, 1>>();
    history_offsets = r.next<In<int32_t, 1>>(n + 1), history_prompt = r.next<In<int32_t, 1>>(n);
    bias_ids = r.next<In<int32_t, 1>>(), bias_values = r.next<In<float, 1>>(bias_ids.shape(0));
    bias_offsets = r.next<In<int32_t, 1>>(n + 1);
    check_ragged(r, history_offsets, history.shape(0));
    check_ragged(r, bias_offsets, bias_ids.shape(0));
    check_ids(r, history, vocab_size);
    check_ids(r, bias_ids, vocab_size);
  }

  RowParams row(size_t i) const {
    const int h = history_offsets(i), b = bias_offsets(i);
    return {temperature(i), top_p(i), min_p(i), repetition(i), presence(i), frequency(i), top_k(i), seed(i),
            position(i), num_logprobs(i), history.data() + h, history_offsets(i + 1) - h, history_prompt(i),
            bias_ids.data() + b, bias_values.data() + b, bias_offsets(i + 1) - b};
  }
};

// Results: ids (R,), logprobs (R,), top ids (R, K), top logprobs (R, K), and logits (R, V) or nothing.
struct Results {
  Out<int32_t, 1> ids;
  Out<float, 1> logprobs;
  Out<int32_t, 2> top_ids;
  Out<float, 2> top_logprobs;
  Out<float, 2> logits;
  bool has_logits;

  Results(nb::tuple t, size_t n, int vocab_size, const Sampling& sampling) : has_logits(t.size() == 5) {
    Reader r("results", t, has_logits ? 5 : 4);
    ids = r.next<Out<int32_t, 1>>(n), logprobs = r.next<Out<float, 1>>(n);
    top_ids = r.next<Out<int32_t, 2>>(n), top_logprobs = r.next<Out<float, 2>>(n);
    if (has_logits) logits = r.next<Out<float, 2>>(n);
    if (has_logits && logits.shape(1) != (size_t)vocab_size) r.fail("logits must be as wide as the vocabulary");
    if (top_ids.shape(1) != top_logprobs.shape(1)) r.fail("top ids and logprobs must have the same width");
    for (size_t i = 0; i < n; i++)
      if (sampling.num_logprobs(i) > (int)top_ids.shape(1)) r.fail("top ids are narrower than num_logprobs");
  }
};

static void forward(Model& model, nb::tuple batch, nb::tuple sampling_arrays, nb::tuple result_arrays) {
  Reader r("batch", batch, 7);
  const auto ids = r.next<In<int32_t, 1>>();
  const size_t t = ids.shape(0);
  const auto positions = r.next<In<int32_t, 1>>(t), slots = r.next<In<int32_t, 1>>(t), cu = r.next<In<int32_t, 1>>();
  if (cu.shape(0) < 1) r.fail("cu_seqlens_q must not be empty");
  const size_t s = cu.shape(0) - 1;
  const auto contexts = r.next<In<int32_t, 1>>(s);
  const auto tables = r.next<In<int32_t, 2>>(s);
  const auto rows = r.next<In<int32_t, 1>>();
  const size_t n = rows.shape(0);
  const int vocab_size = model.shape().vocab_size;
  const Sampling sampling(sampling_arrays, n, vocab_size);
  const Results out(result_arrays, n, vocab_size, sampling);
  Step step{(int)t, (int)s, (int)tables.shape(1), (int)n, ids.data(), positions.data(), slots.data(), cu.data(),
            contexts.data(), tables.data(), rows.data(), {}, out.ids.data(), out.logprobs.data(), out.top_ids.data(),
            out.top_logprobs.data(), (int)out.top_ids.shape(1), out.has_logits ? out.logits.data() : nullptr};
  step.params.reserve(n);
  for (size_t i = 0; i < n; i++) step.params.push_back(sampling.row(i));
  nb::gil_scoped_release release;
  model.forward(step);
}

static ModelShape make_shape(nb::tuple t, float eps, int bits) {
  if (t.size() != 12) throw std::invalid_argument("shape must hold 12 numbers.");
  if (bits != 4 && bits != 8 && bits != 32)
    throw std::invalid_argument("bits must be 4, 8 or 32. Given: " + std::to_string(bits) + ".");
  int v[12];
  for (int i = 0; i < 12; i++) v[i] = nb::cast<int>(t[i]);
  return {v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], eps, bits};
}

static std::unique_ptr<Sampler> make_sampler(const std::string& isa, int vocab_size) {
  const Kernels* kernels = find_kernels(isa.c_str());
  if (!kernels) throw std::invalid_argument("isa '" + isa + "' is unknown or cannot run on this machine.");
  return std::make_unique<Sampler>(*kernels, vocab_size);
}

NB_MODULE(_core, m) {
  nb::class_<Weights>(m, "Weights")
      .def("__init__",
           [](Weights* self, nb::tuple shape, float eps, int bits, int threads) {
             new (self) Weights(make_shape(shape, eps, bits), threads);
           },
           nb::arg("shape"), nb::kw_only(), nb::arg("rms_norm_eps"), nb::arg("bits"), nb::arg("threads"))
      .def("add",
           [](Weights& w, const std::string& name, nb::ndarray<const float, nb::c_contig, nb::device::cpu> a) {
             std::vector<size_t> shape(a.ndim());
             for (size_t i = 0; i < a.ndim(); i++) shape[i] = a.shape(i);
             nb::gil_scoped_release release;
             w.add(name, a.data(), shape);
           },
           nb::arg("name"), nb::arg("tensor").noconvert())
      .def("missing", &Weights::missing)
      .def("finish", &Weights::finish, nb::call_guard<nb::gil_scoped_release>())
      .def("save", &Weights::save, nb::arg("path"), nb::arg("key"), nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("nbytes", [](const Weights& w) { return w.map.bytes; });
  m.def("load_weights",
        [](const std::string& path, const std::string& key, nb::tuple shape, float eps, int bits, int threads) {
          const ModelShape s = make_shape(shape, eps, bits);
          nb::gil_scoped_release release;
          return std::shared_ptr<Weights>(Weights::load(path, key, s, threads));
        },
        nb::arg("path"), nb::arg("key"), nb::arg("shape"), nb::kw_only(), nb::arg("rms_norm_eps"), nb::arg("bits"),
        nb::arg("threads"));
  nb::class_<Model>(m, "Model")
      .def("__init__",
           [](Model* self, std::shared_ptr<Weights> weights, nb::tuple limits, In<float, 2> cos, In<float, 2> sin,
              const std::string& isa) {
             if (limits.size() != 6) throw std::invalid_argument("limits must hold 6 numbers.");
             int v[6];
             for (int i = 0; i < 6; i++) v[i] = nb::cast<int>(limits[i]);
             const size_t half = weights->shape.head_dim / 2;
             for (const In<float, 2>& a : {cos, sin})
               if (a.shape(0) != (size_t)v[4] || a.shape(1) != half)
                 throw std::invalid_argument("cos and sin must be (max_model_len, head_dim / 2).");
             new (self) Model(weights, {v[0], v[1], v[2], v[3], v[4], v[5]}, cos.data(), sin.data(), isa.c_str());
           },
           nb::arg("weights"), nb::arg("limits"), nb::arg("cos"), nb::arg("sin"), nb::kw_only(), nb::arg("isa"))
      .def("forward", &forward, nb::arg("batch"), nb::arg("sampling"), nb::arg("results"))
      .def_prop_ro("isa", &Model::isa);
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const char* isa : {"avx512", "avxvnni", "avx2", "neon", "portable"})
      if (find_kernels(isa)) names.push_back(isa);
    return names;
  });
  m.def("measure_peak", &measure_peak, nb::arg("isa"), nb::kw_only(), nb::arg("int8"), nb::arg("threads"),
        nb::arg("seconds"), nb::call_guard<nb::gil_scoped_release>());
  m.def("philox4x32", [](std::vector<uint32_t> counter, std::vector<uint32_t> key) {
    if (counter.size() != 4 || key.size() != 2) throw std::invalid_argument("philox4x32 takes 4 and 2 words.");
    const auto out = philox4x32({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
    return std::vector<uint32_t>(out.begin(), out.end());
  }, nb::arg("counter"), nb::arg("key"));
  m.def("sample",
        [](In<float, 2> logits, nb::tuple sampling_arrays, nb::tuple result_arrays, const std::string& isa) {
          const int vocab_size = (int)logits.shape(1);
          const size_t n = logits.shape(0);
          const Sampling sampling(sampling_arrays, n, vocab_size);
          const Results out(result_arrays, n, vocab_size, sampling);
          auto sampler = make_sampler(isa, vocab_size);
          for (size_t i = 0; i < n; i++) {
            const size_t k = out.top_ids.shape(1);
            RowResult result{0, 0, out.top_ids.data() + i * k, out.top_logprobs.data() + i * k};
            if (!sampler->sample(logits.data() + i * vocab_size, sampling.row(i), result))
              throw std::runtime_error("logits of row " + std::to_string(i) + " are not finite.");
            out.ids.data()[i] = result.token, out.logprobs.data()[i] = result.logprob;
          }
        },
        nb::arg("logits"), nb::arg("sampling"), nb::arg("results"), nb::kw_only(), nb::arg("isa"));
}
