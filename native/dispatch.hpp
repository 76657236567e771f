// The instruction sets that this processor has, and the one in use.
#pragma once

#include <string>
#include <vector>

#include "engine_kernels.hpp"
#include "quantize.hpp"

namespace strop {

struct InstructionSet {
  const char* name;
  const Kernels* kernels;
  const EngineKernels* engine;
  bool supported;
};

const std::vector<InstructionSet>& instruction_sets();  // the fastest first

// The fastest, or the one that the environment variable STROP_ISA names; it is read at every call,
// so that tests can compare the sets within one process; with Python's lock held, as Python may
// change it at any other time. Throws std::runtime_error for a name that there is not, or that this
// processor does not have.
const InstructionSet& instruction_set();

}  // namespace strop
