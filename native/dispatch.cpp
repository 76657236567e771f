// See dispatch.hpp.

#include "dispatch.hpp"

#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace strop {
namespace {

#if defined(__x86_64__)
bool has_avx_vnni() {  // compilers of 2022 do not know the name yet
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

std::vector<InstructionSet> all() {
  std::vector<InstructionSet> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512vl =
      avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  const bool avx512 = avx512vl && __builtin_cpu_supports("avx512vbmi");
  sets.push_back({"avx512", &avx512::kernels, &avx512::engine_kernels, avx512});
  sets.push_back({"avx512vl", &avx2::kernels, &avx512vl::engine_kernels, avx512vl});
  sets.push_back({"avxvnni", &avx2::kernels, &avxvnni::engine_kernels, avx2 && has_avx_vnni()});
  sets.push_back({"avx2", &avx2::kernels, &avx2::engine_kernels, avx2});
#endif
  sets.push_back({"scalar", &scalar::kernels, &scalar::engine_kernels, true});
  return sets;
}

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> sets = all();
  return sets;
}

const InstructionSet& instruction_set() {
  const char* wanted = std::getenv("STROP_ISA");
  if (wanted && !*wanted) wanted = nullptr;
  std::string names;
  for (const InstructionSet& set : instruction_sets()) {
    if (wanted ? std::string(wanted) == set.name : set.supported) {
      if (!set.supported)
        throw std::runtime_error("STROP_ISA=" + std::string(wanted) + ": not on this processor");
      return set;
    }
    names += std::string(names.empty() ? "" : ", ") + set.name;
  }
  throw std::runtime_error("STROP_ISA=" + std::string(wanted) + ": choose from " + names);
}

}  // namespace strop
