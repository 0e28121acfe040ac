// talk3d._C: how the native code was built, and what this processor offers it. It needs no torch.
#include <pybind11/pybind11.h>

#include "cpu/instructions.h"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

// how the compiler says its name
#if defined(__clang__)
constexpr char kCompiler[] = __VERSION__;
#else
constexpr char kCompiler[] = "GCC " __VERSION__;
#endif

py::dict build() {
  py::dict facts("compiler"_a = kCompiler, "cxx_standard"_a = __cplusplus, "cxx_flags"_a = TALK3D_CXX_FLAGS,
                 "torch"_a = TALK3D_TORCH);
#if defined(__x86_64__)
  facts["vectors"] = py::make_tuple("portable", "avx2", "avx512");
#else
  facts["vectors"] = py::make_tuple("portable");
#endif
#if defined(TALK3D_CUDA)
  facts["cuda"] = TALK3D_CUDA;
  facts["cuda_archs"] = TALK3D_CUDA_ARCHS;
  facts["nvcc_flags"] = TALK3D_NVCC_FLAGS;
#endif
  return facts;
}

py::dict processor() {
  py::dict features;
#if defined(__x86_64__)
  features["avx2"] = bool(__builtin_cpu_supports("avx2"));
  features["fma"] = bool(__builtin_cpu_supports("fma"));
  features["avx512f"] = bool(__builtin_cpu_supports("avx512f"));
  features["avx512bw"] = bool(__builtin_cpu_supports("avx512bw"));
  features["avx512dq"] = bool(__builtin_cpu_supports("avx512dq"));
  features["avx512vl"] = bool(__builtin_cpu_supports("avx512vl"));
  features["avx512bf16"] = bool(__builtin_cpu_supports("avx512bf16"));
#endif
  return features;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "How the native code of talk3d was built, and what this processor offers it.";
  m.def("build", &build, "Compiler, flags, and versions.");
  m.def("processor", &processor, "The instruction sets that matter here, and whether this processor has them.");
  m.def("lanes", &talk3d::lanes, "Width in floats of the vectors that the CPU kernels use on this processor.");
}
