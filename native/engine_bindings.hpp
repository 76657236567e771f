// What the two halves of the bindings know of each other.
#pragma once

#include <nanobind/nanobind.h>

#include "quantize.hpp"

namespace strop {

namespace nb = nanobind;

const Format& format_of(nb::handle layout);  // of a Layout; in bindings.cpp
void bind_engine(nb::module_& module);

}  // namespace strop
