// Elements: numbers, divided by their scale, become codes.
#pragma once

#include "lanes.hpp"
#include "quantize.hpp"

namespace strop {
namespace {

INLINE Ints encode_sign_magnitude(const Format& f, Floats v) {
  const int smallest = f.smallest_exponent + 127, mantissa = f.mantissa_bits;
  const Ints bits = bits_as<Ints>(v);
  const Ints magnitude = smaller(bits & 0x7FFFFFFF, bits_as<int32_t>(f.largest) + Ints{});
  const Ints exponent = larger(magnitude >> 23, smallest + Ints{});
  // The mantissa, hidden bit included, as an integer: subnormals just stay below the hidden bit.
  const Floats scaled = bits_as<Floats>(magnitude) * bits_as<Floats>((254 + mantissa - exponent) << 23);
  const Ints integer = f.truncate ? __builtin_convertvector(scaled, Ints) : round_even(scaled);
  const Ints sign = (bits >> (32 - f.code_bits)) & (1 << (f.code_bits - 1));
  return (((exponent - smallest) << mantissa) + integer) | sign;
}

INLINE Ints encode_twos_complement(const Format& f, Floats v) {
  Floats scaled = v * power_of_two(-f.smallest_exponent);
  const Floats most = f.largest * power_of_two(-f.smallest_exponent) + Floats{};
  scaled = scaled > -most ? scaled : -most;
  scaled = scaled < most ? scaled : most;
  return round_even(scaled) & ((1 << f.code_bits) - 1);
}

INLINE Ints encode_offset_integer(const Format& f, Floats v) {
  const Floats most = f.largest + Floats{};
  v = v > -most ? v : -most;
  v = v < most ? v : most;
  return round_even(v) + (1 << (f.code_bits - 1));
}

INLINE Ints encode(const Format& f, Floats v) {
  switch (f.element) {
    case Element::sign_magnitude: return encode_sign_magnitude(f, v);
    case Element::twos_complement: return encode_twos_complement(f, v);
    default: return encode_offset_integer(f, v);
  }
}

INLINE void store(Ints code, uint8_t* codes) {
  const Codes narrow = __builtin_convertvector(code, Codes);
  std::memcpy(codes, &narrow, sizeof narrow);
}

// Encode a block times a factor.
template <int B>
INLINE void encode_block(const Format& f, const float* x, float factor, uint8_t* codes) {
  for (int i = 0; i < B; i += kLanes) store(encode(f, load(x + i) * factor), codes + i);
}

// The largest magnitude as bits: NaN, if there is one, is above infinity.
template <int B>
INLINE int32_t largest_bits(const float* x) {
  Ints largest{};
  for (int i = 0; i < B; i += kLanes) largest = larger(largest, magnitude_bits(load(x + i)));
  return largest_lane(largest);
}

}  // namespace
}  // namespace strop
