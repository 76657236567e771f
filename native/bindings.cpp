// The Python face of quantizing, which checks shapes and splits the rows, of sampling and of lookup.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "candidates.hpp"
#include "dispatch.hpp"
#include "engine_bindings.hpp"
#include "noise.hpp"
#include "suffix_automaton.hpp"
#include "threads.hpp"

using namespace strop;

namespace {

template <typename T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <typename Work>
void over_rows(int64_t rows, int64_t cols, int threads, Work work) {
  constexpr int64_t kWorthAThread = 1 << 18;  // elements
  const int64_t most = std::max<int64_t>(1, rows * cols / kWorthAThread);
  const int64_t parts = std::min<int64_t>({threads, rows, most});
  in_threads(parts, parts, [&](int64_t part) {
    work(rows * part / parts, rows * (part + 1) / parts);
  });
}

struct Layout {  // owns the tables that a Format points to
  Format format;
  std::vector<float> values;
  std::vector<int> steps;
  std::vector<float> upper;

  Layout(int block, int code_bits, int scale, int element, int mantissa_bits,
         int smallest_exponent, float largest, int largest_exponent, std::vector<float> values_,
         std::vector<int> steps_, std::vector<float> upper_)
      : values(std::move(values_)), steps(std::move(steps_)), upper(std::move(upper_)) {
    if (block != 16 && block != 32) throw std::invalid_argument("block must be 16 or 32");
    if (Scale(scale) == Scale::micro && block != 16)
      throw std::invalid_argument("microexponents go with blocks of 16");
    if (code_bits < 1 || code_bits > 8 || values.size() != 1u << code_bits)
      throw std::invalid_argument("values must have 2**code_bits entries");
    if (steps.empty() != (Element(element) != Element::ladder))
      throw std::invalid_argument("a ladder is what takes a scale search");
    const int planes = upper.empty() ? 1 : 2;
    if (planes == 2 && (code_bits != 8 || upper.size() != 16 || steps.empty()))
      throw std::invalid_argument("a nested format has 8 bits, 16 upper values, a scale search");
    if (!steps.empty() && (code_bits / planes < 4 || code_bits / planes > 6))
      throw std::invalid_argument("the scale search takes 4 to 6 bits");
    if (!steps.empty() && steps.size() != kSteps)
      throw std::invalid_argument("the scale search takes four steps");
    for (int step : steps)
      if (step < -8 || step > 8) throw std::invalid_argument("scale steps must be within -8..8");
    format = {block, code_bits, Scale(scale), Element(element), Rule::floor, false, mantissa_bits,
              smallest_exponent, largest, largest_exponent, values.data(),
              steps.empty() ? nullptr : steps.data(), planes,
              upper.empty() ? values.data() : upper.data()};
  }
  Layout(const Layout&) = delete;

  int64_t row_bytes(int64_t cols) const { return (cols * format.plane_bits() + 7) / 8; }
  int64_t row_scales(int64_t cols) const {
    return (cols + format.block - 1) / format.block * (format.scale == Scale::micro ? 2 : 1);
  }
  void check(int64_t rows, int64_t cols, const Matrix<uint8_t>& codes,
             const Matrix<uint8_t>& scales) const {
    if (int64_t(codes.shape(0)) != rows * format.planes ||
        int64_t(codes.shape(1)) != row_bytes(cols))
      throw std::invalid_argument("codes do not have the shape of the format");
    if (int64_t(scales.shape(0)) != rows || int64_t(scales.shape(1)) != row_scales(cols))
      throw std::invalid_argument("scales do not have the shape of the format");
  }
};

void quantize(const Layout& layout, int rule, bool truncate, Matrix<const float> x,
              float tensor_scale, Matrix<uint8_t> codes, Matrix<uint8_t> scales, int threads) {
  const int64_t rows = int64_t(x.shape(0)), cols = int64_t(x.shape(1));
  layout.check(rows, cols, codes, scales);
  Format format = layout.format;
  format.rule = Rule(rule);
  format.truncate = truncate;
  const Tensor tensor{x.data(), nullptr, rows, cols, tensor_scale, codes.data(), scales.data()};
  const Kernels& kernels = *instruction_set().kernels;
  nb::gil_scoped_release released;
  over_rows(rows, cols, threads, [&](int64_t first, int64_t last) {
    kernels.quantize(format, tensor, first, last);
  });
}

float largest_finite(Matrix<const float> x, int threads) {
  const int64_t rows = int64_t(x.shape(0)), cols = int64_t(x.shape(1));
  const Kernels& kernels = *instruction_set().kernels;
  nb::gil_scoped_release released;
  std::mutex lock;
  float largest = 0;
  over_rows(rows, cols, threads, [&](int64_t first, int64_t last) {
    const float part = kernels.largest_finite(x.data() + first * cols, (last - first) * cols);
    const std::lock_guard<std::mutex> held(lock);
    largest = std::max(largest, part);
  });
  return largest;
}

void dequantize(const Layout& layout, Matrix<uint8_t> codes, Matrix<uint8_t> scales,
                float tensor_scale, Matrix<float> y, int threads) {
  const int64_t rows = int64_t(y.shape(0)), cols = int64_t(y.shape(1));
  layout.check(rows, cols, codes, scales);
  const Tensor tensor{nullptr, y.data(), rows, cols, tensor_scale, codes.data(), scales.data()};
  const Kernels& kernels = *instruction_set().kernels;
  nb::gil_scoped_release released;
  over_rows(rows, cols, threads, [&](int64_t first, int64_t last) {
    kernels.dequantize(layout.format, tensor, first, last);
  });
}

using Indices = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
auto array(std::vector<T> values) {
  auto* kept = new std::vector<T>(std::move(values));
  const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner);
}

auto random_words(uint64_t seed, uint64_t position, uint32_t use, Indices tokens) {
  const size_t count = tokens.size();
  std::vector<uint32_t> drawn(count);
  Words words{};
  int64_t block = -1;  // that the words are of: tokens side by side share one
  for (size_t i = 0; i < count; i++) {
    const int64_t token = tokens.data()[i];
    if (token < 0 || token >> 34) throw std::invalid_argument("tokens must lie in [0, 2**34)");
    if (token / 4 != block) {
      block = token / 4;
      words = philox({uint32_t(block), uint32_t(position), uint32_t(position >> 32), use}, seed);
    }
    drawn[i] = words[size_t(token % 4)];
  }
  return array(std::move(drawn));
}

template <typename T>
auto candidates_of(nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu> logits,
                   Indices history, double penalty, double temperature, int64_t top_k, double floor) {
  Candidates found = candidates(logits.data(), int64_t(logits.size()), history.data(),
                                int64_t(history.size()), {penalty, temperature, top_k, floor});
  return std::pair(array(std::move(found.tokens)), array(std::move(found.scores)));
}

}  // namespace

const Format& strop::format_of(nb::handle layout) { return nb::cast<const Layout&>(layout).format; }

NB_MODULE(_native, m) {
  nb::class_<Layout>(m, "Layout")
      .def(nb::init<int, int, int, int, int, int, float, int, std::vector<float>,
                    std::vector<int>, std::vector<float>>());
  m.def("quantize", &quantize);
  m.def("dequantize", &dequantize);
  m.def("largest_finite", &largest_finite);
  m.def("random_words", &random_words);
  m.def("candidates", &candidates_of<float>);
  m.def("candidates", &candidates_of<double>);
  nb::class_<SuffixAutomaton>(m, "SuffixAutomaton")
      .def(nb::init<>())
      .def("extend",
           [](SuffixAutomaton& known, const std::vector<int32_t>& tokens) {
             for (const int32_t token : tokens) known.append(token);
           })
      .def_prop_ro("match",
                   [](const SuffixAutomaton& known) {
                     const auto [length, end] = known.match();
                     return std::pair(length, end);
                   })
      .def_prop_ro("nbytes", &SuffixAutomaton::nbytes);
  m.def("instruction_set", [] { return std::string(instruction_set().name); });
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const InstructionSet& set : instruction_sets())
      if (set.supported) names.push_back(set.name);
    return names;
  });
  bind_engine(m);
}
