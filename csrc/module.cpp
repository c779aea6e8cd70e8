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

// Casts the fields of an object one by one, and says which one does not fit.
class Reader {
 public:
  Reader(const char* what, nb::handle object) : what_(what), object_(object) {}

  template <class A>
  A array(const char* name) const {
    A a;
    if (!nb::try_cast<A>(nb::getattr(object_, name), a, false)) fail(name, "has another type or rank");
    return a;
  }
  template <class A>
  A array(const char* name, size_t size) const {
    A a = array<A>(name);
    if (a.shape(0) != size)
      fail(name, "must hold " + std::to_string(size) + " entries. Given: " + std::to_string(a.shape(0)));
    return a;
  }
  template <class T>
  T number(const char* name) const {
    return nb::cast<T>(nb::getattr(object_, name));
  }
  bool has(const char* name) const { return !nb::getattr(object_, name).is_none(); }
  [[noreturn]] void fail(const char* name, const std::string& problem) const {
    throw std::invalid_argument(std::string(what_) + "." + name + " " + problem + ".");
  }

 private:
  const char* what_;
  nb::handle object_;
};

static void check_ragged(const Reader& r, const char* name, const In<int32_t, 1>& offsets, size_t total) {
  int32_t last = 0;
  for (size_t i = 0; i < offsets.shape(0); i++) {
    if (offsets(i) < last || (size_t)offsets(i) > total) r.fail(name, "must rise from 0 to the number of ids");
    last = offsets(i);
  }
}

static void check_ids(const Reader& r, const char* name, const In<int32_t, 1>& ids, int vocab_size) {
  for (size_t i = 0; i < ids.shape(0); i++)
    if (ids(i) < 0 || ids(i) >= vocab_size) r.fail(name, "must be in the vocabulary");
}

// Keeps the arrays alive while RowParams point into them.
struct Sampling {
  In<float, 1> temperature, top_p, min_p, repetition, presence, frequency, bias_values;
  In<int32_t, 1> top_k, position, num_logprobs, history, history_offsets, history_prompt, bias_ids, bias_offsets;
  In<int32_t, 1> targets;
  In<uint64_t, 1> seed;
  In<uint32_t, 2> masks;
  In<int32_t, 1> mask_rows;

  Sampling(nb::handle object, size_t n, int vocab_size) {
    const Reader r("sampling", object);
    temperature = r.array<In<float, 1>>("temperature", n), top_p = r.array<In<float, 1>>("top_p", n);
    top_k = r.array<In<int32_t, 1>>("top_k", n), min_p = r.array<In<float, 1>>("min_p", n);
    repetition = r.array<In<float, 1>>("repetition_penalty", n), presence = r.array<In<float, 1>>("presence_penalty", n);
    frequency = r.array<In<float, 1>>("frequency_penalty", n), seed = r.array<In<uint64_t, 1>>("seed", n);
    position = r.array<In<int32_t, 1>>("position", n), num_logprobs = r.array<In<int32_t, 1>>("num_logprobs", n);
    history = r.array<In<int32_t, 1>>("history_ids");
    history_offsets = r.array<In<int32_t, 1>>("history_offsets", n + 1);
    history_prompt = r.array<In<int32_t, 1>>("history_num_prompt", n);
    bias_ids = r.array<In<int32_t, 1>>("bias_ids");
    bias_values = r.array<In<float, 1>>("bias_values", bias_ids.shape(0));
    bias_offsets = r.array<In<int32_t, 1>>("bias_offsets", n + 1);
    targets = r.array<In<int32_t, 1>>("targets", n);
    masks = r.array<In<uint32_t, 2>>("masks"), mask_rows = r.array<In<int32_t, 1>>("mask_rows", n);
    const size_t words = (vocab_size + 31) / 32;
    if (masks.shape(0) && masks.shape(1) != words)
      r.fail("masks", "must hold " + std::to_string(words) + " words a row");
    for (size_t i = 0; i < n; i++)
      if (mask_rows(i) < -1 || mask_rows(i) >= (long)masks.shape(0)) r.fail("mask_rows", "must be rows of masks, or -1");
    check_ragged(r, "history_offsets", history_offsets, history.shape(0));
    check_ragged(r, "bias_offsets", bias_offsets, bias_ids.shape(0));
    check_ids(r, "history_ids", history, vocab_size);
    check_ids(r, "bias_ids", bias_ids, vocab_size);
    for (size_t i = 0; i < n; i++)
      if (targets(i) < -1 || targets(i) >= vocab_size) r.fail("targets", "must be in the vocabulary, or -1");
  }

  RowParams row(size_t i) const {
    const int h = history_offsets(i), b = bias_offsets(i);
    return {temperature(i), top_p(i), min_p(i), repetition(i), presence(i), frequency(i), top_k(i), seed(i),
            position(i), num_logprobs(i), history.data() + h, history_offsets(i + 1) - h, history_prompt(i),
            bias_ids.data() + b, bias_values.data() + b, bias_offsets(i + 1) - b,
            mask_rows(i) < 0 ? nullptr : masks.data() + mask_rows(i) * masks.shape(1), targets(i)};
  }
};

// What is written in place: the fields of runner.py's StepResult.
struct Results {
  Out<int32_t, 1> ids;
  Out<float, 1> logprobs;
  Out<int32_t, 2> top_ids;
  Out<float, 2> top_logprobs;
  Out<float, 2> logits;
  bool has_logits;

  Results(nb::handle object, size_t n, int vocab_size, const Sampling& sampling) {
    const Reader r("results", object);
    ids = r.array<Out<int32_t, 1>>("token_ids", n), logprobs = r.array<Out<float, 1>>("logprobs", n);
    top_ids = r.array<Out<int32_t, 2>>("top_ids", n), top_logprobs = r.array<Out<float, 2>>("top_logprobs", n);
    has_logits = r.has("logits");
    if (has_logits) logits = r.array<Out<float, 2>>("logits", n);
    if (has_logits && logits.shape(1) != (size_t)vocab_size) r.fail("logits", "must be as wide as the vocabulary");
    if (top_ids.shape(1) != top_logprobs.shape(1)) r.fail("top_ids", "must be as wide as top_logprobs");
    for (size_t i = 0; i < n; i++)
      if (sampling.num_logprobs(i) > (int)top_ids.shape(1)) r.fail("top_ids", "must be as wide as num_logprobs");
  }
};

static void forward(Model& model, nb::handle batch, nb::handle results) {
  const Reader r("batch", batch);
  const auto ids = r.array<In<int32_t, 1>>("token_ids");
  const size_t t = ids.shape(0);
  const auto positions = r.array<In<int32_t, 1>>("positions", t), slots = r.array<In<int32_t, 1>>("slot_mapping", t);
  const auto cu = r.array<In<int32_t, 1>>("cu_seqlens_q");
  if (cu.shape(0) < 1) r.fail("cu_seqlens_q", "must not be empty");
  const size_t s = cu.shape(0) - 1;
  const auto contexts = r.array<In<int32_t, 1>>("context_lens", s);
  const auto tables = r.array<In<int32_t, 2>>("block_tables", s);
  const auto rows = r.array<In<int32_t, 1>>("logits_indices");
  const size_t n = rows.shape(0);
  const int vocab_size = model.shape.vocab_size;
  const Sampling sampling(nb::getattr(batch, "sampling"), n, vocab_size);
  const Results out(results, n, vocab_size, sampling);
  Step step{(int)t, (int)s, (int)tables.shape(1), (int)n, ids.data(), positions.data(), slots.data(), cu.data(),
            contexts.data(), tables.data(), rows.data(), {}, out.ids.data(), out.logprobs.data(), out.top_ids.data(),
            out.top_logprobs.data(), (int)out.top_ids.shape(1), out.has_logits ? out.logits.data() : nullptr};
  step.params.reserve(n);
  for (size_t i = 0; i < n; i++) step.params.push_back(sampling.row(i));
  nb::gil_scoped_release release;
  model.forward(step);
}

static ModelShape make_shape(nb::handle config) {
  const Reader r("config", config);
  return {r.number<int>("vocab_size"), r.number<int>("hidden_size"), r.number<int>("intermediate_size"),
          r.number<int>("num_hidden_layers"), r.number<int>("num_attention_heads"),
          r.number<int>("num_key_value_heads"), r.number<int>("head_dim"), r.number<float>("rms_norm_eps")};
}

static ModelLimits make_limits(nb::handle limits) {
  const Reader r("limits", limits);
  return {r.number<int>("num_blocks"), r.number<int>("block_size"), r.number<int>("max_num_batched_tokens"),
          r.number<int>("max_num_seqs"), r.number<int>("max_model_len"), r.number<int>("threads")};
}

static TensorSpec make_spec(nb::handle tensor) {
  const Reader r("tensor", tensor);
  const auto shape = r.number<std::vector<int>>("shape");
  return {r.number<std::string>("name"), r.number<std::string>("place"), shape.at(0), shape.size() > 1 ? shape[1] : 0};
}

static std::vector<TensorSpec> make_specs(nb::iterable tensors) {
  std::vector<TensorSpec> specs;
  for (nb::handle t : tensors) specs.push_back(make_spec(t));
  return specs;
}

static Precision make_precision(const std::string& name) {
  if (name == "float32") return Precision::float32;
  if (name == "int8") return Precision::int8;
  if (name == "int4") return Precision::int4;
  throw std::invalid_argument("precision must be float32, int8 or int4. Given: " + name + ".");
}

static Format make_format(const std::string& name) {
  for (int i = 0; i < kFormats; i++)
    if (name == kFormatInfo[i].name && (Format)i != Format::a8) return (Format)i;
  throw std::invalid_argument("Numbers of type " + name + " cannot be read.");
}

static std::unique_ptr<Sampler> make_sampler(const std::string& isa, int vocab_size) {
  const Kernels* kernels = find_kernels(isa.c_str());
  if (!kernels) throw std::invalid_argument("isa '" + isa + "' is unknown or cannot run on this machine.");
  return std::make_unique<Sampler>(*kernels, vocab_size);
}

NB_MODULE(_core, m) {
  nb::class_<Weights>(m, "Weights")
      .def("__init__",
           [](Weights* self, nb::iterable tensors, const std::string& precision, int threads, const std::string& path,
              const std::string& key) {
             new (self) Weights(make_specs(tensors), make_precision(precision), threads, path, key);
           },
           nb::arg("tensors"), nb::kw_only(), nb::arg("precision"), nb::arg("threads"), nb::arg("path") = "",
           nb::arg("key") = "")
      .def("add",
           [](Weights& w, const std::string& name, const std::string& kind, In<uint8_t, 1> data,
              const std::vector<size_t>& shape, const std::vector<int32_t>& order) {
             const Format format = make_format(kind);
             nb::gil_scoped_release release;
             w.add(name, format, data.data(), data.shape(0), shape, order);
           },
           nb::arg("name"), nb::arg("kind"), nb::arg("data").noconvert(), nb::arg("shape"), nb::arg("order"))
      .def("missing", &Weights::missing)
      .def("finish", &Weights::finish, nb::call_guard<nb::gil_scoped_release>())
      .def("kind", [](const Weights& w, const std::string& name) { return info(w.by_name(name).format).name; },
           nb::arg("name"))
      .def("tensor_bytes",
           [](const Weights& w, const std::string& name) {
             const Tensor& t = w.by_name(name);
             return t.k ? t.tiles() * t.tile_bytes() : t.n * sizeof(float);
           },
           nb::arg("name"))
      .def("read_rows",
           [](const Weights& w, const std::string& name, int first, Out<float, 2> out) {
             const Tensor& t = w.by_name(name);
             if (!t.data || !t.k || first < 0 || first + (int)out.shape(0) > t.n || out.shape(1) != (size_t)t.k)
               throw std::invalid_argument("rows must be rows of a matrix of finished weights.");
             for (size_t i = 0; i < out.shape(0); i++) t.row(first + (int)i, out.data() + i * t.k);
           },
           nb::arg("name"), nb::arg("first"), nb::arg("out"))
      .def_prop_ro("nbytes", &Weights::bytes);
  m.def("packed_as",
        [](nb::handle tensor, const std::string& kind, const std::string& precision) {
          const auto [format, bytes] = Weights::packed(make_spec(tensor), make_format(kind), make_precision(precision));
          return nb::make_tuple(info(format).name, bytes);
        },
        nb::arg("tensor"), nb::arg("kind"), nb::kw_only(), nb::arg("precision"));
  m.def("open_weights",
        [](const std::string& path, const std::string& key, nb::iterable tensors, const std::string& precision,
           int threads) {
          auto specs = make_specs(tensors);
          const Precision p = make_precision(precision);
          nb::gil_scoped_release release;
          return std::shared_ptr<Weights>(Weights::open(path, key, std::move(specs), p, threads));
        },
        nb::arg("path"), nb::arg("key"), nb::arg("tensors"), nb::kw_only(), nb::arg("precision"), nb::arg("threads"));
  nb::class_<Model>(m, "Model")
      .def("__init__",
           [](Model* self, std::shared_ptr<Weights> weights, nb::handle config, nb::handle limits, In<float, 2> cos,
              In<float, 2> sin, const std::string& isa) {
             const ModelShape shape = make_shape(config);
             const ModelLimits l = make_limits(limits);
             for (const In<float, 2>& a : {cos, sin})
               if (a.shape(0) != (size_t)l.max_model_len || a.shape(1) != (size_t)shape.head_dim / 2)
                 throw std::invalid_argument("cos and sin must be (max_model_len, head_dim / 2).");
             new (self) Model(weights, shape, l, cos.data(), sin.data(), isa.c_str());
           },
           nb::arg("weights"), nb::arg("config"), nb::arg("limits"), nb::arg("cos"), nb::arg("sin"), nb::kw_only(),
           nb::arg("isa"))
      .def("forward", &forward, nb::arg("batch"), nb::arg("results"))
      .def("block",
           [](nb::handle_t<Model> self, int index) {
             const Model& model = nb::cast<const Model&>(self);
             if (index < 0 || index >= model.limits.num_blocks) throw std::invalid_argument("index must be of a block.");
             const KvCache& cache = model.cache();
             return nb::ndarray<uint8_t, nb::numpy, nb::ndim<1>>(cache.block(index), {(size_t)cache.block_bytes()}, self);
           },
           nb::arg("index"))
      .def_prop_ro("isa", &Model::isa);
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const Kernels* kernels : available_kernels()) names.push_back(kernels->isa);
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
        [](In<float, 2> logits, nb::handle sampling_arrays, nb::handle result_arrays, const std::string& isa) {
          const int vocab_size = (int)logits.shape(1);
          const size_t n = logits.shape(0);
          const Sampling sampling(sampling_arrays, n, vocab_size);
          const Results out(result_arrays, n, vocab_size, sampling);
          auto sampler = make_sampler(isa, vocab_size);
          for (size_t i = 0; i < n; i++) {
            const size_t k = out.top_ids.shape(1);
            RowResult result{0, 0, out.top_ids.data() + i * k, out.top_logprobs.data() + i * k};
            if (!sampler->sample(logits.data() + i * vocab_size, sampling.row(i), result))
              throw std::runtime_error("logits of row " + std::to_string(i) + " are not finite, or all are masked.");
            out.ids.data()[i] = result.token, out.logprobs.data()[i] = result.logprob;
          }
        },
        nb::arg("logits"), nb::arg("sampling"), nb::arg("results"), nb::kw_only(), nb::arg("isa"));
}
