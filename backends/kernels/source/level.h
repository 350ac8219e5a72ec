// A set of instructions that this build has code for.
#pragma once

#include "kernels.h"

namespace hostelry {

struct Level {
    const char *name;
    decltype(&hk_multiply) multiply;
    decltype(&hk_activate) activate;
    decltype(&hk_peak) peak;
    decltype(&hk_place) place;
    decltype(&hk_attend) attend;
    decltype(&hk_shrink) shrink;
    decltype(&hk_expand) expand;
};

// Null where the compiler or the processor's family has not got it, or where the build leaves it out, by HOSTELRY_LEFT_OUT.
// Whether this CPU has it, the caller finds out.
extern const Level *const scalar_level;
extern const Level *const avx2_level;
extern const Level *const avxvnni_level;
extern const Level *const avx512vnni_level;
extern const Level *const neon_level;

}  // namespace hostelry
