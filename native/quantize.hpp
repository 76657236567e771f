// Quantization to block formats: what the kernels take and give.
//
// The rules are those of src/strop/blockfp/reference.py, which is the text to read; the kernels
// must give the same bits. They are compiled once per instruction set (quantize_kernels.cpp).
#pragma once

#include <cstdint>

namespace strop {

enum class Scale : int { e8m0, micro, ue4m3, s1e4m3 };
enum class Rule : int { floor, ceil, rceil, even };
enum class Element : int {
  sign_magnitude,   // a float, or an integer magnitude, below a sign bit
  twos_complement,  // an integer times a power of two
  offset_integer,   // consecutive integers, coded by position
  ladder,           // rising integers from -128 to 127; a code that is none of them is NaN
};

constexpr int kSteps = 4;  // that the scale search tries

struct Format {
  int block;      // elements that share a scale: 16 or 32
  int code_bits;  // 1 to 8
  Scale scale;
  Element element;
  Rule rule;
  bool truncate;          // round towards zero
  int mantissa_bits;      // explicit mantissa bits of an element
  int smallest_exponent;  // of a normal element (sign_magnitude), of the unit (twos_complement)
  float largest;          // largest magnitude of an element
  int largest_exponent;   // floor(log2(largest))
  const float* values;    // value of each code: 2**code_bits
  const int* steps;  // s1e4m3: kSteps scales to try, counted from the smallest that does not clip;
                     // null: take that one
  int planes;  // that codes are stored in: 1, or 2 for a nested format, upper halves first
  const float* ladder;  // what the scale search fits: `values`, or those of the upper plane

  int plane_bits() const { return code_bits / planes; }
};

struct Tensor {
  const float* values;    // rows of `cols` numbers, to quantize
  float* restored;        // rows of `cols` numbers, to dequantize into
  int64_t rows, cols;
  float scale;            // of the whole tensor
  uint8_t* codes;         // planes of `rows` rows of ceil(cols * plane_bits / 8) bytes
  uint8_t* scales;        // rows of ceil(cols / block) scales of one byte, two for Scale::micro
};

// The first two work on rows first <= row < last.
struct Kernels {
  void (*quantize)(const Format&, const Tensor&, int64_t first, int64_t last);
  void (*dequantize)(const Format&, const Tensor&, int64_t first, int64_t last);
  float (*largest_finite)(const float* x, int64_t count);  // magnitude; 0 if there is none
};

namespace scalar { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }

}  // namespace strop
