// The Python face of the engine.

#include "engine_bindings.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <utility>

#include "dispatch.hpp"
#include "draft_head.hpp"
#include "engine.hpp"

namespace strop {
namespace {

using namespace nb::literals;

template <typename T, size_t N>
using Array = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Vector = Array<float, 1>;

std::vector<float> copy(const Vector& v) { return {v.data(), v.data() + v.size()}; }
std::vector<float> copy(const std::optional<Vector>& v) {
  return v ? copy(*v) : std::vector<float>{};
}

MatrixPointer make_matrix(nb::handle layout, Array<uint8_t, 2> codes, Array<uint8_t, 2> scales,
                          float tensor_scale, int64_t cols, bool resident, int threads) {
  const Format& format = format_of(layout);
  const int64_t rows = int64_t(codes.shape(0)) / format.planes, row_bytes = int64_t(codes.shape(1));
  const int64_t blocks = (cols + format.block - 1) / format.block;
  if (cols < 1 || int64_t(codes.shape(0)) != rows * format.planes ||
      row_bytes != (cols * format.plane_bits() + 7) / 8)
    throw std::invalid_argument("codes do not have the shape of the format");
  if (int64_t(scales.shape(0)) != rows || int64_t(scales.shape(1)) != blocks)
    throw std::invalid_argument("scales do not have the shape of the format");
  const Source source{codes.data(), scales.data(), row_bytes, blocks};
  // Matrices that are not resident read the arrays later, and so keep them alive.
  auto* arrays = resident ? nullptr : new std::pair(codes, scales);
  const auto release = [arrays](const Matrix* matrix) {
    delete matrix;
    if (!arrays) return;
    const nb::gil_scoped_acquire held;
    delete arrays;
  };
  const Matrix* matrix;
  try {
    const nb::gil_scoped_release released;
    matrix = new Matrix(format, tensor_scale, rows, cols, source, resident, threads);
  } catch (...) {
    delete arrays;
    throw;
  }
  return MatrixPointer(matrix, release);
}

using Rows = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

Rows new_rows(int64_t rows, int64_t cols) {
  auto* data = new float[size_t(rows * cols)];
  const nb::capsule owner(data, [](void* at) noexcept { delete[] static_cast<float*>(at); });
  return {data, {size_t(rows), size_t(cols)}, owner};
}

// The product of rows of numbers, quantized first, with a matrix: what the engine does, by itself.
Rows multiply(const Matrix& matrix, Array<float, 2> x) {
  const int64_t rows = int64_t(x.shape(0));
  if (int64_t(x.shape(1)) != matrix.tiles().cols)
    throw std::invalid_argument("rows do not have as many numbers as the matrix has columns");
  Rows y = new_rows(rows, matrix.tiles().rows);
  multiply(*instruction_set().engine, matrix, x.data(), rows, y.data());
  return y;
}

std::shared_ptr<Engine> make_engine(std::vector<Layer> layers, MatrixPointer embedding,
                                    std::optional<MatrixPointer> head, Vector final_norm,
                                    int64_t heads, int64_t kv_heads, int64_t head_dim,
                                    float norm_epsilon, Vector frequencies, float rotary_scale,
                                    int64_t context, int threads) {
  if (layers.empty()) throw std::invalid_argument("an engine needs layers");
  const Tiles& tiles = embedding->tiles();
  Architecture architecture{tiles.cols,
                            heads,
                            kv_heads,
                            head_dim,
                            layers[0].gate->tiles().rows,
                            tiles.rows,
                            context,
                            norm_epsilon,
                            copy(frequencies),
                            rotary_scale};
  return std::make_shared<Engine>(std::move(architecture), std::move(layers), std::move(embedding),
                                  head.value_or(nullptr), copy(final_norm), threads);
}

std::pair<Rows, Rows> forward(Engine& engine, std::vector<Cache*> caches,
                              std::vector<Array<int32_t, 1>> tokens, int64_t last) {
  std::vector<Tokens> lists;
  int64_t rows = 0;
  for (const auto& list : tokens) {
    const int64_t count = int64_t(list.size());
    lists.push_back({list.data(), count});
    rows += std::min(count, std::max<int64_t>(last, 0));
  }
  Rows logits = new_rows(rows, engine.architecture().vocabulary);
  Rows states = new_rows(rows, engine.architecture().hidden);
  const EngineKernels& kernels = *instruction_set().engine;
  {
    const nb::gil_scoped_release released;
    engine.forward(kernels, caches, lists, last, logits.data(), states.data());
  }
  return {logits, states};
}

std::pair<Rows, Rows> draft_step(DraftHead& head, int32_t token, Array<float, 1> state) {
  if (int64_t(state.size()) != head.hidden())
    throw std::invalid_argument("the state has not the length that the model gives");
  Rows logits = new_rows(1, head.outputs()), next = new_rows(1, head.hidden());
  const EngineKernels& kernels = *instruction_set().engine;
  {
    const nb::gil_scoped_release released;
    head.step(kernels, token, state.data(), logits.data(), next.data());
  }
  return {logits, next};
}

CacheFormat cache_format(const std::string& name) {
  if (name == "fp16") return CacheFormat::fp16;
  if (name == "bfp8") return CacheFormat::bfp8;
  throw std::invalid_argument("a cache is fp16 or bfp8, not " + name);
}

}  // namespace

void bind_engine(nb::module_& m) {
  m.def("runs_format", [](nb::handle layout) { return runs_format(format_of(layout)); });
  nb::class_<Matrix>(m, "Matrix")
      .def(nb::new_(&make_matrix))
      .def_prop_ro("rows", [](const Matrix& self) { return self.tiles().rows; })
      .def_prop_ro("cols", [](const Matrix& self) { return self.tiles().cols; })
      .def_prop_ro("nbytes", &Matrix::nbytes)
      .def("multiply", [](const Matrix& self, Array<float, 2> x) { return multiply(self, x); });
  nb::class_<Layer>(m, "Layer")
      .def(
          "__init__",
          [](Layer* self, MatrixPointer query, MatrixPointer key, MatrixPointer value,
             MatrixPointer output, MatrixPointer gate, MatrixPointer up, MatrixPointer down,
             Vector input_norm, Vector mlp_norm, std::optional<Vector> query_bias,
             std::optional<Vector> key_bias, std::optional<Vector> value_bias,
             std::optional<Vector> output_bias, std::optional<Vector> query_norm,
             std::optional<Vector> key_norm, int64_t window, bool rotary) {
            if (window < 0) throw std::invalid_argument("a window is not negative");
            new (self) Layer{query, key, value, output, gate, up, down, copy(input_norm),
                             copy(mlp_norm), copy(query_bias), copy(key_bias), copy(value_bias),
                             copy(output_bias), copy(query_norm), copy(key_norm), window, rotary};
          },
          nb::kw_only(), "query"_a, "key"_a, "value"_a, "output"_a, "gate"_a, "up"_a, "down"_a,
          "input_norm"_a, "mlp_norm"_a, "query_bias"_a = nb::none(), "key_bias"_a = nb::none(),
          "value_bias"_a = nb::none(), "output_bias"_a = nb::none(), "query_norm"_a = nb::none(),
          "key_norm"_a = nb::none(), "window"_a = 0, "rotary"_a = true);
  nb::class_<Engine>(m, "Engine")
      .def(nb::new_(&make_engine), nb::kw_only(), "layers"_a, "embedding"_a, "head"_a.none(),
           "final_norm"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "norm_epsilon"_a, "frequencies"_a,
           "rotary_scale"_a, "context"_a, "threads"_a)
      .def_prop_ro("threads", &Engine::threads)
      .def("forward", &forward);
  nb::class_<DraftHead>(m, "DraftHead")
      .def("__init__",
           [](DraftHead* self, std::shared_ptr<Engine> engine, MatrixPointer fuse, MatrixPointer gate,
              MatrixPointer up, MatrixPointer down, MatrixPointer head, Vector token_norm,
              Vector state_norm, Vector mlp_norm, Vector final_norm) {
             new (self) DraftHead(engine, {fuse, gate, up, down, head, copy(token_norm),
                                           copy(state_norm), copy(mlp_norm), copy(final_norm)});
           },
           nb::kw_only(), "engine"_a, "fuse"_a, "gate"_a, "up"_a, "down"_a, "head"_a, "token_norm"_a,
           "state_norm"_a, "mlp_norm"_a, "final_norm"_a)
      .def("step", &draft_step);
  nb::class_<Cache>(m, "Cache")
      .def(nb::new_([](std::shared_ptr<Engine> engine, const std::string& format) {
        return std::make_shared<Cache>(std::move(engine), cache_format(format));
      }))
      .def_prop_ro("length", &Cache::length)
      .def_prop_ro("nbytes", &Cache::nbytes)
      .def("truncate", &Cache::truncate, nb::call_guard<nb::gil_scoped_release>())
      .def("fork", &Cache::fork, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace strop
